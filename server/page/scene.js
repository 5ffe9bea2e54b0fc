/** What the two panels show, from a pair and the state of the view. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Cells } from './heat.js' */
/** @import { Point } from './places.js' */

import { regionWeights } from './places.js';
import { sharedScale } from './scale.js';

/** @typedef {0 | 1} Side */
/** @typedef {{ side: Side, cell: number }} Place */
/** @typedef {{ side: Side, polygon: Point[] }} Region polygon: corners inside the photo, in its pixels */
/** @typedef {'heat' | 'photo' | 'swipe'} Look */
/** @typedef {'contribution' | 'influence'} Quantity */
/**
 * @typedef {{
 *   look: Look, quantity: Quantity, contours: boolean, opacity: number, divider: number,
 *   pin: Place | null, hover: Place | null, region: Region | null
 * }} View
 *   divider: where the swipe changes from photo to heat, as a share of the width.
 */
/**
 * @typedef {{ cells: Cells, scale: number, kind: 'map' | 'matches' | 'region' }} Heat
 *   kind: the map of the photo, what a cell of the other photo matches, or what a region of it matches.
 */
/**
 * @typedef {{ contribution: number, influence: number, weights: Float64Array }} RegionSum
 * @typedef {{
 *   heats: [Heat, Heat], source: Place | null, probe: Place | null, matches: number[], region: RegionSum | null,
 *   scales: { map: number, matches: number }, negative: { map: boolean, matches: boolean }
 * }} Scene
 *   source: the cell whose matches the other photo shows. probe: a further cell under the pointer.
 *   scales, negative: of the maps, and of what the cell or the region matches.
 *   matches: the cells of the other photo that it matches best, best first.
 */

export const MATCHES = 5;

/** @type {View} */
export const START = {
  look: 'heat', quantity: 'contribution', contours: true, opacity: 0.6, divider: 0.5,
  pin: null, hover: null, region: null,
};

/**
 * @param {Pair} pair
 * @param {[Photo, Photo]} photos
 * @param {View} view
 * @returns {Scene}
 */
export function sceneOf(pair, photos, view) {
  const maps = view.quantity === 'contribution' ? pair.maps : pair.influence;
  const { scales, negative } = scalesOf(pair, view.quantity);
  /** @type {(side: Side, values: Float32Array | Float64Array) => Cells} */
  const cellsOf = (side, values) => ({ values, rows: pair.grids[side].rows, columns: pair.grids[side].columns });
  /** @type {[Heat, Heat]} */
  const heats = [
    { cells: cellsOf(0, maps[0]), scale: scales.map, kind: 'map' },
    { cells: cellsOf(1, maps[1]), scale: scales.map, kind: 'map' },
  ];
  const region = view.region && regionSum(pair, photos, view.region);
  const source = view.pin ?? (region ? null : view.hover);
  const isProbe = view.hover && !samePlace(view.hover, source);
  /** @type {number[]} */
  let matches = [];
  if (source) {
    const other = otherSide(source.side);
    const values = matchesOf(pair, source);
    heats[other] = { cells: cellsOf(other, values), scale: scales.matches, kind: 'matches' };
    matches = strongest(values, MATCHES).filter((cell) => values[cell] > 0);
  } else if (region && view.region) {
    const other = otherSide(view.region.side);
    const values = regionMatches(pair, view.region.side, region.weights);
    // Of the contribution of each cell this is the region's part, so that the scale is the same.
    const contributions = scalesOf(pair, 'contribution');
    scales.matches = contributions.scales.map;
    negative.matches = contributions.negative.map;
    heats[other] = { cells: cellsOf(other, values), scale: scales.matches, kind: 'region' };
  }
  return { heats, source, probe: isProbe ? view.hover : null, matches, region, scales, negative };
}

/** @type {WeakMap<Pair, Map<Quantity, Pick<Scene, 'scales' | 'negative'>>>} */
const kept = new WeakMap();

/**
 * @param {Pair} pair
 * @param {Quantity} quantity
 * @returns {Pick<Scene, 'scales' | 'negative'>}
 */
function scalesOf(pair, quantity) {
  const known = kept.get(pair) ?? new Map();
  kept.set(pair, known);
  const maps = quantity === 'contribution' ? pair.maps : pair.influence;
  const scales = known.get(quantity) ?? {
    scales: { map: sharedScale(maps), matches: sharedScale([pair.points]) },
    negative: { map: maps.some(hasNegative), matches: hasNegative(pair.points) },
  };
  known.set(quantity, scales);
  return structuredClone(scales);
}

/** @param {Float32Array} values */
function hasNegative(values) {
  return values.some((value) => value < 0);
}

/** @param {Side} side @returns {Side} */
export function otherSide(side) {
  return side === 0 ? 1 : 0;
}

/** @param {Place | null} one @param {Place | null} other */
export function samePlace(one, other) {
  return one?.side === other?.side && one?.cell === other?.cell;
}

/**
 * What a cell adds together with each cell of the other photo.
 *
 * @param {Pair} pair
 * @param {Place} place
 * @returns {Float32Array} of the other photo, row by row
 */
export function matchesOf({ points, grids }, { side, cell }) {
  const columns = grids[1].rows * grids[1].columns;
  if (side === 0) return points.subarray(cell * columns, (cell + 1) * columns);
  return Float32Array.from({ length: grids[0].rows * grids[0].columns }, (_, at) => points[at * columns + cell]);
}

/**
 * What a region adds together with each cell of the other photo.
 *
 * @param {Pair} pair
 * @param {Side} side of the region
 * @param {Float64Array} weights
 * @returns {Float64Array}
 */
function regionMatches(pair, side, weights) {
  const [firsts, seconds] = pair.grids.map(({ rows, columns }) => rows * columns);
  const sums = new Float64Array(side === 0 ? seconds : firsts);
  const [step, next] = side === 0 ? [seconds, 1] : [1, seconds];
  weights.forEach((weight, cell) => {
    if (weight === 0) return;
    for (let at = 0; at < sums.length; at++) sums[at] += weight * pair.points[cell * step + at * next];
  });
  return sums;
}

/**
 * @param {Pair} pair
 * @param {[Photo, Photo]} photos
 * @param {Region} region
 * @returns {RegionSum}
 */
function regionSum(pair, photos, { side, polygon }) {
  const weights = regionWeights(pair.grids[side], polygon, photos[side]);
  /** @param {Float32Array} values */
  const sum = (values) => weights.reduce((total, weight, cell) => total + weight * values[cell], 0);
  return { contribution: sum(pair.maps[side]), influence: sum(pair.influence[side]), weights };
}

/**
 * The cells with the largest values, largest first; of equal ones the first in reading order.
 *
 * @param {Float32Array} values
 * @param {number} count
 * @returns {number[]}
 */
export function strongest(values, count) {
  return Array.from(values.keys())
    .sort((one, other) => values[other] - values[one] || one - other)
    .slice(0, count);
}
