/** Comparing photos on the server that the page came from (`simmap serve`), and searching its index. */

/** @import { Backend, Database, Photo, RemoteConfig } from './types.js' */
/** @import { Point } from './places.js' */

import { ServerError, ask } from './ask.js';
import { PhotoError } from './decode.js';
import { makeCanvas } from './dom.js';
import { pairFromJson } from './wire.js';

const LONGEST_SIDE = 2048; // pixels of a hit that becomes a photo; the most that the server gives
const THUMBNAIL = 512; // pixels of the longer side

/**
 * @param {RemoteConfig} config
 * @returns {Backend}
 */
export function remoteBackend({ index }) {
  return { open: async () => null, compare, ...(index && { database: databaseOf(index.results) }) };
}

/** @type {Backend['compare']} */
async function compare(photos, signal) {
  const body = new FormData();
  body.append('a', photos[0].blob, photos[0].name);
  body.append('b', photos[1].blob, photos[1].name);
  try {
    return pairFromJson(await (await ask('v1/compare?points=1', { method: 'POST', body, signal })).json());
  } catch (error) {
    if (!(error instanceof ServerError) || (error.field !== 'a' && error.field !== 'b')) throw error;
    const side = error.field === 'a' ? 0 : 1;
    // The server knows the photo by its field.
    throw new PhotoError(error.message.replace(/^[ab]: /, `${photos[side].name}: `), side);
  }
}

/**
 * @param {number} results
 * @returns {Database}
 */
function databaseOf(results) {
  return {
    async search(photo, polygon, signal) {
      const body = new FormData();
      body.append('image', photo.blob, photo.name);
      if (polygon !== null) await appendRegion(body, photo, polygon);
      try {
        const answer = await ask(`v1/search?k=${results}&maps=1`, { method: 'POST', body, signal });
        return (await answer.json()).hits;
      } catch (error) {
        if (!(error instanceof ServerError)) throw error;
        throw new ServerError(error.message.replace(/^image: /, `${photo.name}: `), error.field);
      }
    },
    async thumbnail(id, signal) {
      const answer = await ask(`${pathOf(id)}?side=${THUMBNAIL}`, { signal });
      return createImageBitmap(await answer.blob());
    },
    async file(id) {
      const answer = await ask(`${pathOf(id)}?side=${LONGEST_SIDE}&lossless=1`, {});
      return new File([await answer.blob()], id.split('/').at(-1) ?? id);
    },
  };
}

/**
 * A rectangle as a box, any other region as a mask of the photo's size.
 *
 * @param {FormData} body
 * @param {Photo} photo
 * @param {Point[]} polygon
 */
async function appendRegion(body, { width, height }, polygon) {
  const [first, second, third, fourth] = polygon;
  const isRectangle =
    polygon.length === 4 &&
    first[1] === second[1] && second[0] === third[0] && third[1] === fourth[1] && fourth[0] === first[0];
  if (isRectangle) {
    body.append('regions', JSON.stringify([[first[0], first[1], third[0] - first[0], third[1] - first[1]]]));
    return;
  }
  const [canvas, context] = makeCanvas(width, height);
  context.fillRect(0, 0, width, height);
  context.fillStyle = 'white';
  context.beginPath();
  for (const point of polygon) context.lineTo(...point);
  context.fill();
  /** @type {Blob | null} */
  const mask = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  if (mask === null) throw new Error('this browser cannot draw a region of so large a photo; use a rectangle');
  body.append('mask', mask, 'mask.png');
}

/**
 * The address of an image. A byte of a file's name that is no UTF-8 is a lone surrogate, U+DC80 to U+DCFF.
 *
 * @param {string} id
 */
function pathOf(id) {
  const letters = Array.from(id, (letter) => {
    const code = letter.codePointAt(0) ?? 0;
    if (code >= 0xdc80 && code <= 0xdcff) return `%${(code - 0xdc00).toString(16)}`;
    return letter === '/' ? letter : encodeURIComponent(letter);
  });
  return `v1/images/${letters.join('')}`;
}
