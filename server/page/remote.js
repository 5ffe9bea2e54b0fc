/** Comparing photos on the server that the page came from (`simmap serve`). */

/** @import { Backend, Pair, Photo } from './types.js' */

import { PhotoError } from './decode.js';
import { pairFromJson } from './wire.js';

/** @typedef {{ title?: string, detail?: string, field?: string }} Problem RFC 9457, with the field at fault. */

/** @returns {Backend} */
export function remoteBackend() {
  return { open: async () => null, compare };
}

/**
 * @param {[Photo, Photo]} photos
 * @param {AbortSignal} [signal]
 * @returns {Promise<Pair>}
 */
async function compare(photos, signal) {
  const body = new FormData();
  body.append('a', photos[0].blob, photos[0].name);
  body.append('b', photos[1].blob, photos[1].name);
  const answer = await post(body, signal);
  if (answer.ok) return pairFromJson(await answer.json());
  /** @type {Problem} */
  const problem = await answer.json().catch(() => ({}));
  const message = problem.detail ?? problem.title ?? `the server answers ${answer.status}; try again later`;
  if (problem.field !== 'a' && problem.field !== 'b') throw new Error(message);
  const side = problem.field === 'a' ? 0 : 1;
  // The server knows the photo by its field.
  throw new PhotoError(message.replace(/^[ab]: /, `${photos[side].name}: `), side);
}

/**
 * @param {FormData} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>}
 */
async function post(body, signal) {
  try {
    return await fetch('v1/compare?points=1', { method: 'POST', body, signal });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new Error('the server does not answer; check that it runs, then try again', { cause: error });
  }
}
