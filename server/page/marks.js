/** Lines over the panels that are visible on any ground: light ones with dark edges. */

/** @import { Pair } from './types.js' */
/** @import { Frame } from './frame.js' */
/** @import { Point } from './places.js' */
/** @import { Place, Scene, Side, View } from './scene.js' */

import { SHARES, cellOutlines, fewestPlaces } from './contours.js';
import { cellBox, cellMiddle, rectangle } from './places.js';
import { matchesOf, otherSide } from './scene.js';

const LIGHT = 'rgb(255 255 255)';
const DARK = 'rgb(25 25 28)';
const ROUNDING = 0.3; // of a cell's shorter side
const THINNEST_LINK = 1;
const WIDEST_LINK = 3;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Pair} pair
 * @param {Scene} scene
 * @param {View} view
 * @param {[Frame, Frame]} frames of the two panels on the context
 * @param {number} unit pixels to one of the screen
 */
export function drawMarks(context, pair, scene, view, frames, unit) {
  for (const side of /** @type {const} */ ([0, 1])) {
    const { kind, cells } = scene.heats[side];
    if (kind === 'map' && view.contours && view.quantity === 'contribution' && view.look !== 'photo') {
      drawContours(context, pair, side, cells.values, frames[side], unit);
    }
  }
  if (view.region) drawRegion(context, view.region.polygon, frames[view.region.side], unit);
  if (scene.source) drawSource(context, pair, scene, scene.source, view.pin !== null, frames, unit);
  if (scene.probe) drawCell(context, pair, scene.probe, frames, 1.2 * unit);
  if (view.look === 'swipe') for (const frame of frames) drawDivider(context, frame, view.divider, unit);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Pair} pair
 * @param {Side} side
 * @param {ArrayLike<number>} values
 * @param {Frame} frame
 * @param {number} unit
 */
function drawContours(context, pair, side, values, frame, unit) {
  const { rows, columns, x, y, width, height } = pair.grids[side];
  const [left, top] = frame.place([x, y]);
  const [right, bottom] = frame.place([x + width, y + height]);
  const cell = [(right - left) / columns, (bottom - top) / rows];
  const radius = ROUNDING * Math.min(...cell);
  const inset = 2 * unit; // so that a line along the panel's edge stays inside
  for (const share of SHARES) {
    context.beginPath();
    for (const loop of cellOutlines(fewestPlaces(Float32Array.from(values), share), columns)) {
      roundedPath(
        context,
        loop.map(([column, row]) => [
          Math.min(Math.max(left + column * cell[0], left + inset), right - inset),
          Math.min(Math.max(top + row * cell[1], top + inset), bottom - inset),
        ]),
        radius,
      );
    }
    context.setLineDash(share === 0.5 ? [] : [7 * unit, 5 * unit]);
    stroke(context, (share === 0.5 ? 1.6 : 1.2) * unit, unit);
  }
  context.setLineDash([]);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Point[]} corners
 * @param {number} radius
 */
function roundedPath(context, corners, radius) {
  corners.forEach((corner, at) => {
    const before = corners[(at + corners.length - 1) % corners.length];
    const next = corners[(at + 1) % corners.length];
    const from = towards(corner, before, radius);
    if (at === 0) context.moveTo(...from);
    else context.lineTo(...from);
    context.quadraticCurveTo(...corner, ...towards(corner, next, radius));
  });
  context.closePath();
}

/**
 * @param {Point} from
 * @param {Point} to
 * @param {number} distance at most half of the way
 * @returns {Point}
 */
function towards(from, to, distance) {
  const [x, y] = [to[0] - from[0], to[1] - from[1]];
  const share = Math.min(distance / Math.max(Math.hypot(x, y), 1e-9), 0.5);
  return [from[0] + share * x, from[1] + share * y];
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Point[]} polygon
 * @param {Frame} frame
 * @param {number} unit
 */
export function drawRegion(context, polygon, frame, unit) {
  context.beginPath();
  for (const point of polygon) context.lineTo(...frame.place(point));
  context.closePath();
  stroke(context, 2 * unit, unit);
}

/**
 * The cell, what it matches best, and, where it is pinned, lines to these.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Pair} pair
 * @param {Scene} scene
 * @param {Place} source
 * @param {boolean} isPinned
 * @param {[Frame, Frame]} frames
 * @param {number} unit
 */
function drawSource(context, pair, { matches }, source, isPinned, frames, unit) {
  const other = otherSide(source.side);
  const values = matchesOf(pair, source);
  for (const cell of matches) drawCell(context, pair, { side: other, cell }, frames, unit);
  drawCell(context, pair, source, frames, 2.4 * unit);
  if (!isPinned) return;
  const start = frames[source.side].place(cellMiddle(pair.grids[source.side], source.cell));
  for (const cell of matches.toReversed()) {
    const end = frames[other].place(cellMiddle(pair.grids[other], cell));
    const width = unit * (THINNEST_LINK + (WIDEST_LINK - THINNEST_LINK) * (values[cell] / values[matches[0]]));
    context.beginPath();
    context.moveTo(...start);
    context.lineTo(...end);
    stroke(context, width, unit);
    for (const [colour, radius] of /** @type {const} */ ([[DARK, 1.3 * width + unit], [LIGHT, 1.3 * width]])) {
      context.beginPath();
      context.arc(...end, radius, 0, 2 * Math.PI);
      context.fillStyle = colour;
      context.fill();
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Pair} pair
 * @param {Place} place
 * @param {[Frame, Frame]} frames
 * @param {number} width of the line
 */
function drawCell(context, pair, { side, cell }, frames, width) {
  const frame = frames[side];
  const inset = width;
  const corners = rectangle(cellBox(pair.grids[side], cell)).map((corner) => frame.place(corner));
  context.beginPath();
  for (const [x, y] of corners) {
    context.lineTo(
      Math.min(Math.max(x, frame.x + inset), frame.x + frame.width - inset),
      Math.min(Math.max(y, frame.y + inset), frame.y + frame.height - inset),
    );
  }
  context.closePath();
  stroke(context, width, Math.min(width, 1.5));
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {number} divider
 * @param {number} unit
 */
function drawDivider(context, frame, divider, unit) {
  const x = frame.x + divider * frame.width;
  context.beginPath();
  context.moveTo(x, frame.y);
  context.lineTo(x, frame.y + frame.height);
  stroke(context, 2 * unit, unit);
  context.beginPath();
  context.arc(x, frame.y + frame.height / 2, 9 * unit, 0, 2 * Math.PI);
  context.fillStyle = LIGHT;
  context.fill();
  stroke(context, unit, unit);
}

/**
 * Stroke the path, light with dark edges.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} edge
 */
function stroke(context, width, edge) {
  context.lineJoin = 'round';
  context.strokeStyle = DARK;
  context.lineWidth = width + 1.5 * edge;
  context.stroke();
  context.strokeStyle = LIGHT;
  context.lineWidth = width;
  context.stroke();
}
