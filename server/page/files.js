/** What the page gives to keep: a picture, JSON, one HTML file. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Scene, View } from './scene.js' */

import { pinOf } from './link.js';
import { pairToJson } from './wire.js';

/**
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * The pair, and what is marked, as `simmap compare --json` names it; rows and columns count from 0.
 *
 * @param {Pair} pair
 * @param {[Photo, Photo]} photos
 * @param {Scene} scene
 * @param {View} view
 * @returns {string}
 */
export function jsonOf(pair, photos, scene, view) {
  const pin = pinOf(view.pin, pair.grids);
  return JSON.stringify({
    ...pairToJson(pair),
    images: photos.map(({ name, width, height }) => ({ path: name, height, width })),
    ...(pin && { pin: { image: pin.side, cell: [pin.row, pin.column] } }),
    ...(view.region &&
      scene.region && {
        region: {
          image: view.region.side,
          polygon: view.region.polygon,
          contribution: scene.region.contribution,
          influence: scene.region.influence,
        },
      }),
  });
}
