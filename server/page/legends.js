/** Which legends a scene needs. */

/** @import { Pair } from './types.js' */
/** @import { Legend } from './legend.js' */
/** @import { Scene, View } from './scene.js' */

import { hasResidual } from './words.js';

/**
 * That of the maps, and that of a cell's matches where there are any.
 *
 * @param {Pair} pair
 * @param {Scene} scene
 * @param {View} view
 * @returns {Legend[]}
 */
export function legendsOf(pair, { scales, negative, source }, { quantity, opacity, contours }) {
  const total = hasResidual(pair) ? "the map's sum" : 'the score';
  /** @type {Legend[]} */
  const legends = [
    {
      kind: 'map',
      quantity,
      scale: scales.map,
      negative: negative.map,
      opacity,
      contours: contours && quantity === 'contribution' ? total : '',
    },
  ];
  if (source) {
    const { matches: scale } = scales;
    legends.push({ kind: 'matches', quantity: 'contribution', scale, negative: negative.matches, opacity, contours: '' });
  }
  return legends;
}
