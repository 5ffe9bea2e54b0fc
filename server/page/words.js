/** What the page says about a pair, in sentences. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Place, Scene, Side, View } from './scene.js' */

import { cellName } from './places.js';
import { matchesOf, otherSide } from './scene.js';
import { numberText, pointText, shareText, signedText } from './scale.js';

/** @type {[string, string]} */
export const SIDES = ['A', 'B'];

/** @param {ArrayLike<number>} values */
export function sumOf(values) {
  return Array.from(values).reduce((total, value) => total + value, 0);
}

/** @param {Pair} pair */
export function hasResidual({ residuals }) {
  return residuals.some((residual) => residual !== 0);
}

/**
 * What stands beside the score.
 *
 * @param {Pair} pair
 */
export function sumText(pair) {
  const [first, second] = pair.maps.map((map) => numberText(sumOf(map), 3));
  if (!hasResidual(pair)) return `Each map sums to ${first}.`;
  const [one, other] = pair.residuals.map((residual) => numberText(residual, 3));
  return `The maps sum to ${first} and ${second}; no place owns the rest, ${one} and ${other}.`;
}

/**
 * What stands below a photo.
 *
 * @param {Pair} pair
 * @param {Scene} scene
 * @param {View} view
 * @param {Side} side
 */
export function captionText(pair, scene, view, side) {
  const { kind, cells } = scene.heats[side];
  const total = sumOf(cells.values);
  const other = SIDES[otherSide(side)];
  if (kind === 'matches') return `what the marked cell of ${other} matches; it sums to ${numberText(total)}`;
  if (kind === 'region') return `what the region of ${other} matches; it sums to ${numberText(total)}`;
  if (view.quantity === 'influence') {
    const values = Array.from(cells.values);
    const up = sumOf(values.filter((value) => value > 0));
    return `raise the score: ${signedText(up, 3)}, lower it: ${signedText(total - up, 3)}`;
  }
  const caption = `the map sums to ${numberText(total, 3)}`;
  if (!hasResidual(pair)) return caption;
  const share = shareText(total, pair.score);
  const part = share ? `${share} of the score` : 'the score is near 0';
  return `${caption} (${part}), no place owns ${numberText(pair.residuals[side], 3)}`;
}

/**
 * A cell, its share in numbers and its best matches.
 *
 * @param {Pair} pair
 * @param {Scene} scene
 * @param {View} view
 * @returns {string} empty where nothing is marked
 */
export function detailText(pair, scene, view) {
  const sentences = [];
  if (view.region && scene.region) sentences.push(regionText(pair, view.region.side, scene.region));
  if (scene.source) {
    const other = otherSide(scene.source.side);
    const values = matchesOf(pair, scene.source);
    const best = scene.matches.map((cell) => `${cellName(pair.grids[other], cell)} (${pointText(values[cell])})`);
    sentences.push(cellText(pair, scene.source));
    if (best.length) sentences.push(`Best matches in ${SIDES[other]}: ${best.join('; ')}.`);
    else sentences.push(`It matches nothing in ${SIDES[other]}.`);
  }
  if (scene.probe) sentences.push(cellText(pair, scene.probe), withSourceText(pair, scene.source, scene.probe));
  return sentences.filter(Boolean).join(' ');
}

/**
 * @param {Pair} pair
 * @param {Place} place
 */
function cellText(pair, { side, cell }) {
  const contribution = pair.maps[side][cell];
  const share = shareText(contribution, pair.score);
  return (
    `${SIDES[side]}, ${cellName(pair.grids[side], cell)}: contribution ${numberText(contribution)}` +
    `${share ? `, ${share} of the score` : ''}; influence ${signedText(pair.influence[side][cell])}.`
  );
}

/**
 * @param {Pair} pair
 * @param {Place | null} source
 * @param {Place} probe
 */
function withSourceText(pair, source, probe) {
  if (source === null || source.side === probe.side) return '';
  return `With the pinned cell: ${pointText(matchesOf(pair, source)[probe.cell])}.`;
}

/**
 * @param {Pair} pair
 * @param {Side} side
 * @param {{ contribution: number, influence: number }} sum
 */
function regionText(pair, side, { contribution, influence }) {
  const share = shareText(contribution, pair.score);
  return (
    `Region of ${SIDES[side]}: contribution ${numberText(contribution)} of ${numberText(pair.score)}` +
    `${share ? ` (${share})` : ''}; influence ${signedText(influence)}.`
  );
}

/**
 * The name of a panel for those who do not see it.
 *
 * @param {Side} side
 * @param {Photo} photo
 * @param {boolean} isCompared
 */
export function panelName(side, photo, isCompared) {
  const keys = 'Arrow keys move the cell, Enter pins it, Space switches between heat and photo, Escape clears.';
  return `Photo ${SIDES[side]}: ${photo.name}.${isCompared ? ` ${keys}` : ''}`;
}
