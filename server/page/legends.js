/** Which legends a scene needs. */

/** @import { Pair } from './types.js' */
/** @import { Legend } from './legend.js' */
/** @import { Scene, View } from './scene.js' */

import { hasResidual } from './words.js';

/**
 * That of the maps, and that of what a cell or a region matches.
 *
 * @param {Pair} pair
 * @param {Scene} scene
 * @param {View} view
 * @returns {[Legend, Legend]}
 */
export function legendsOf(pair, { scales, negative, region }, { quantity, opacity, contours }) {
  const total = hasResidual(pair) ? "the map's sum" : 'the score';
  return [
    {
      kind: 'map',
      quantity,
      scale: scales.map,
      negative: negative.map,
      opacity,
      contours: contours && quantity === 'contribution' ? total : '',
    },
    {
      kind: region ? 'region' : 'matches',
      quantity: 'contribution',
      scale: scales.matches,
      negative: negative.matches,
      opacity,
      contours: '',
    },
  ];
}
