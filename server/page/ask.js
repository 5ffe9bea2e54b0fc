/** Requests to the server that the page came from (`simmap serve`). */

import { askForKey, lastKey } from './access.js';

/** @typedef {{ title?: string, detail?: string, field?: string }} Problem RFC 9457, with the field at fault. */

export class ServerError extends Error {
  /**
   * @param {string} message one sentence
   * @param {string | null} field of the request that is at fault
   */
  constructor(message, field = null) {
    super(message);
    this.name = 'ServerError';
    this.field = field;
  }
}

/**
 * @param {string} path relative to the page
 * @param {RequestInit} options
 * @returns {Promise<Response>} of a request that succeeded
 * @throws {ServerError} the server refuses or does not answer
 */
export async function ask(path, options) {
  const key = lastKey();
  const answer = await send(path, key ? { ...options, headers: { Authorization: `Bearer ${key}` } } : options);
  if (answer.ok) return answer;
  if (answer.status === 401 && (await askForKey(key))) return ask(path, options);
  /** @type {Problem} */
  const problem = await answer.json().catch(() => ({}));
  throw new ServerError(messageOf(answer.status, problem), problem.field);
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw new ServerError('the server does not answer; check that it runs, then try again');
  }
}

/**
 * @param {number} status
 * @param {Problem} problem
 */
function messageOf(status, { detail, title }) {
  if (status === 401) {
    return 'this server answers only requests with a key; try again, and give one that it knows';
  }
  if (status === 403) return `the server refuses this page (${detail ?? title ?? 'no permission'}); ask who runs it`;
  return detail ?? title ?? `the server answers ${status}; try again later`;
}
