/** The legend of one scale: its colours on two grounds, its numbers, and what the lines enclose. */

/** @import { Heat, Quantity } from './scene.js' */

import { makeCanvas } from './dom.js';
import { paintHeat } from './heat.js';
import { tickText } from './scale.js';

/** @type {[string, number][]} words and greys of the bar's two halves */
const GROUNDS = [['on light photos', 232], ['on dark photos', 40]];
const BAR = 15; // height of the bar's one half; lengths are in pixels of the screen
const BAR_LENGTH = 240;
const LINE = 20;
const SWATCH = 34;
const SPACE = 8;
const SWATCH_GROUND = 'rgb(92 92 92)';
const LIGHT = 'rgb(255 255 255)';
const DARK = 'rgb(25 25 28)';

/**
 * @typedef {{
 *   kind: Heat['kind'], quantity: Quantity, scale: number, negative: boolean, opacity: number, contours: string
 * }} Legend
 *   contours: what the lines enclose shares of; empty without lines.
 * @typedef {{ ink: string, faint: string, font: string }} Ink font: its families
 */

/**
 * The lines of text below a bar.
 *
 * @param {Legend} legend
 * @returns {string[]}
 */
export function legendText({ kind, quantity, negative }) {
  if (kind !== 'map') {
    const other = kind === 'matches' ? 'marked cell' : 'region';
    return [`contribution to the cosine with the ${other}`, ...(negative ? ['blue, hatched: against similarity'] : [])];
  }
  if (quantity === 'influence') {
    return [
      'influence on the cosine per cell',
      'red to yellow raises the score',
      ...(negative ? ['blue, hatched: lowers the score'] : []),
    ];
  }
  return ['contribution to the cosine per cell', ...(negative ? ['blue, hatched: against similarity'] : [])];
}

/** @param {Legend} legend @returns {[string, boolean][]} text and whether the line is whole */
function legendKeys({ contours }) {
  if (!contours) return [];
  return [[`inside: half of ${contours}`, true], [`inside: 80 % of ${contours}`, false]];
}

/** @param {Legend} legend @returns {number} pixels of the screen */
export function legendHeight(legend) {
  return 2 * BAR + 28 + LINE * (legendText(legend).length + legendKeys(legend).length);
}

/** The least width that a legend needs, in pixels of the screen. */
export const LEGEND_WIDTH = BAR_LENGTH + SPACE + 104;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {Legend} legend
 * @param {Ink} ink
 * @param {number} unit pixels to one of the screen
 */
export function drawLegend(context, x, y, legend, ink, unit) {
  const high = Math.round(BAR * unit);
  const long = Math.round(BAR_LENGTH * unit);
  context.font = `${13 * unit}px ${ink.font}`;
  context.textBaseline = 'middle';
  context.textAlign = 'left';
  GROUNDS.forEach(([word, grey], at) => {
    context.drawImage(bar(legend, long, high, grey, unit), x, y + at * high);
    context.fillStyle = ink.faint;
    context.fillText(word, x + long + SPACE * unit, y + (at + 0.5) * high);
  });
  let below = y + 2 * high;
  drawTicks(context, x, below, long, legend, ink, unit);
  below += 28 * unit;
  context.textAlign = 'left';
  context.fillStyle = ink.faint;
  for (const line of legendText(legend)) {
    context.fillText(line, x, below + (LINE / 2) * unit);
    below += LINE * unit;
  }
  for (const [text, isWhole] of legendKeys(legend)) {
    drawKey(context, x, below + (LINE / 2) * unit, isWhole, unit);
    context.fillStyle = ink.faint;
    context.fillText(text, x + (SWATCH + SPACE) * unit, below + (LINE / 2) * unit);
    below += LINE * unit;
  }
}

/**
 * @param {Legend} legend
 * @param {number} long
 * @param {number} high
 * @param {number} grey
 * @param {number} unit
 */
function bar({ negative, opacity }, long, high, grey, unit) {
  const [canvas, context] = makeCanvas(long, high);
  const pixels = context.createImageData(long, high);
  // As many cells as pixels: between their middles nothing is left to interpolate.
  const low = negative ? -1 : 0;
  const values = Float32Array.from({ length: long }, (_, at) => low + ((1 - low) * at) / (long - 1));
  const ground = new Uint8Array(long * high).fill(grey);
  paintHeat(pixels, ground, { values, rows: 1, columns: long }, 1, opacity, unit);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} long
 * @param {Legend} legend
 * @param {Ink} ink
 * @param {number} unit
 */
function drawTicks(context, x, y, long, { scale, negative }, ink, unit) {
  const low = negative ? -scale : 0;
  context.fillStyle = ink.ink;
  [low, (low + scale) / 2, scale].forEach((value, at) => {
    context.fillRect(Math.round(x + (at / 2) * (long - unit)), y, Math.max(1, Math.round(unit)), 5 * unit);
    context.textAlign = /** @type {const} */ (['left', 'center', 'right'])[at];
    context.fillText(tickText(value, negative), x + (at / 2) * long, y + 15 * unit);
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y of its middle
 * @param {boolean} isWhole
 * @param {number} unit
 */
function drawKey(context, x, y, isWhole, unit) {
  context.fillStyle = SWATCH_GROUND;
  context.fillRect(x, y - 6 * unit, SWATCH * unit, 12 * unit);
  context.setLineDash(isWhole ? [] : [7 * unit, 5 * unit]);
  for (const [colour, width] of /** @type {const} */ ([[DARK, 3], [LIGHT, 1.5]])) {
    context.beginPath();
    context.moveTo(x + 4 * unit, y);
    context.lineTo(x + (SWATCH - 4) * unit, y);
    context.strokeStyle = colour;
    context.lineWidth = width * unit;
    context.stroke();
  }
  context.setLineDash([]);
}
