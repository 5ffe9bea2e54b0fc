/** The whole result as one picture: score, photos, maps on one scale, marks and legend. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Frame as PhotoFrame } from './frame.js' */
/** @import { Scene, View } from './scene.js' */

import { makeCanvas } from './dom.js';
import { Frame, canvasOf, fitted } from './frame.js';
import { drawLegend, legendHeight } from './legend.js';
import { legendsOf } from './legends.js';
import { drawMarks } from './marks.js';
import { Raster } from './raster.js';
import { numberText } from './scale.js';
import { captionText, detailText } from './words.js';

const UNIT = 1.4; // pixels of the picture to one of its layout
const WIDTH = 1000; // of the layout
const MARGIN = 20;
const GAP = 12;
const HIGHEST = 620; // of a panel
const PAPER = 'rgb(255 255 255)';
const INK = { ink: 'rgb(38 38 42)', faint: 'rgb(96 96 104)', font: 'system-ui, sans-serif' };

/**
 * Photos above maps, as the pictures of `simmap compare`.
 *
 * @param {Pair} pair
 * @param {[Photo, Photo]} photos
 * @param {Scene} scene
 * @param {View} view
 * @returns {HTMLCanvasElement}
 */
export function drawPicture(pair, photos, scene, view) {
  const column = (WIDTH - 2 * MARGIN - GAP) / 2;
  const sizes = photos.map((photo, side) => fitted(canvasOf(photo, pair.grids[side]), column, HIGHEST));
  const high = Math.max(sizes[0][1], sizes[1][1]);
  const legends = legendsOf(pair, scene, view).slice(0, scene.source || scene.region ? 2 : 1);
  const titles = MARGIN + 44;
  const first = titles + 24;
  const second = first + high + GAP;
  const captions = second + high + 18;
  const [measure] = makeCanvas(1, 1);
  const details = wrapped(contextFor(measure, 14), detailText(pair, scene, view), (WIDTH - 2 * MARGIN) * UNIT);
  const legendTop = captions + 28 + 20 * details.length;
  const height = legendTop + Math.max(...legends.map(legendHeight)) + MARGIN;
  const [canvas] = makeCanvas(Math.round(WIDTH * UNIT), Math.round(height * UNIT));
  const context = contextFor(canvas, 24);
  context.fillStyle = PAPER;
  context.fillRect(0, 0, canvas.width, canvas.height);
  write(context, `cosine similarity ${numberText(pair.score, 3)}`, MARGIN, MARGIN + 14, 24, INK.ink, WIDTH);
  /** @type {Frame[]} */
  const frames = [];
  photos.forEach((photo, at) => {
    const side = /** @type {0 | 1} */ (at);
    const x = MARGIN + side * (column + GAP);
    const [width, height] = sizes[side].map((value) => Math.round(value * UNIT));
    const raster = new Raster(photo, pair.grids[side], width, height, UNIT);
    raster.paint(scene.heats[side].cells, scene.heats[side].scale, view.opacity);
    const [left, upper, lower] = [x, first, second].map((value) => Math.round(value * UNIT));
    context.drawImage(raster.plain, left, upper);
    context.drawImage(raster.heated, left, lower);
    frames.push(new Frame(canvasOf(photo, pair.grids[side]), left, lower, width, height));
    write(context, photo.name, x, titles + 8, 15, INK.ink, column);
    write(context, captionText(pair, scene, view, side), x, captions, 14, INK.faint, column);
  });
  const heatView = /** @type {View} */ ({ ...view, look: 'heat' });
  drawMarks(context, pair, scene, heatView, /** @type {[PhotoFrame, PhotoFrame]} */ (frames), UNIT);
  details.forEach((line, at) => write(context, line, MARGIN, captions + 4 + 20 * (at + 1), 14, INK.ink, WIDTH));
  legends.forEach((legend, at) => {
    drawLegend(context, (MARGIN + at * (column + GAP)) * UNIT, legendTop * UNIT, legend, INK, UNIT);
  });
  return canvas;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number} size of text
 */
function contextFor(canvas, size) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d', { willReadFrequently: true }));
  context.font = `${size * UNIT}px ${INK.font}`;
  return context;
}

/**
 * One line, shortened in the middle to fit.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y of its middle
 * @param {number} size
 * @param {string} colour
 * @param {number} width at most
 */
function write(context, text, x, y, size, colour, width) {
  context.font = `${size * UNIT}px ${INK.font}`;
  context.textAlign = 'left';
  context.textBaseline = 'middle';
  context.fillStyle = colour;
  const letters = [...text];
  let kept = letters.length;
  let line = text;
  while (kept > 1 && context.measureText(line).width > width * UNIT) {
    kept -= 1;
    line = `${letters.slice(0, Math.ceil(kept / 2)).join('')}…${letters.slice(letters.length - Math.floor(kept / 2)).join('')}`;
  }
  context.fillText(line, x * UNIT, y * UNIT);
}

/**
 * @param {CanvasRenderingContext2D} context with its font
 * @param {string} text
 * @param {number} width
 * @returns {string[]}
 */
function wrapped(context, text, width) {
  /** @type {string[]} */
  const lines = [];
  for (const word of text.split(' ').filter(Boolean)) {
    const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
    if (lines.length && context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}
