/** The pair that a saved page holds. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Saved, SavedPhoto } from './standalone.js' */
/** @import { View } from './scene.js' */

import { pairFromJson } from './wire.js';

/** @typedef {{ pair: Pair, photos: [Photo, Photo], view: View }} SavedPair */

/** @returns {Promise<SavedPair | null>} null on a page that holds none */
export async function savedPair() {
  const element = document.getElementById('saved');
  if (element === null) return null;
  /** @type {Saved} */
  const saved = JSON.parse(element.textContent ?? '');
  const [first, second] = await Promise.all(saved.photos.map(photoOf));
  return { pair: pairFromJson(saved.pair), photos: [first, second], view: saved.view };
}

/**
 * @param {SavedPhoto} saved
 * @returns {Promise<Photo>}
 */
async function photoOf({ name, width, height, data }) {
  const blob = new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type: 'image/jpeg' });
  return { name, blob, width, height, bitmap: await createImageBitmap(blob) };
}
