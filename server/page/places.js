/** Cells and regions of a photo, in continuous photo pixels. */

/** @import { Grid } from './types.js' */

/** @typedef {[number, number]} Point (x, y) */
/** @typedef {[number, number, number, number]} Corners left, top, right, bottom */

/**
 * The cell of a grid under a point of the photo; null where the network sees nothing of it.
 *
 * @param {Grid} grid
 * @param {Point} point
 * @returns {number | null}
 */
export function cellAt(grid, [x, y]) {
  const column = Math.floor(((x - grid.x) / grid.width) * grid.columns);
  const row = Math.floor(((y - grid.y) / grid.height) * grid.rows);
  if (column < 0 || row < 0 || column >= grid.columns || row >= grid.rows) return null;
  return row * grid.columns + column;
}

/**
 * @param {Grid} grid
 * @param {number} cell
 * @returns {Corners}
 */
export function cellBox(grid, cell) {
  const row = Math.floor(cell / grid.columns);
  const column = cell % grid.columns;
  const left = grid.x + (grid.width * column) / grid.columns;
  const top = grid.y + (grid.height * row) / grid.rows;
  return [left, top, left + grid.width / grid.columns, top + grid.height / grid.rows];
}

/**
 * @param {Grid} grid
 * @param {number} cell
 * @returns {Point}
 */
export function cellMiddle(grid, cell) {
  const [left, top, right, bottom] = cellBox(grid, cell);
  return [(left + right) / 2, (top + bottom) / 2];
}

/**
 * A cell's name for people, who count from 1.
 *
 * @param {Grid} grid
 * @param {number} cell
 */
export function cellName(grid, cell) {
  return `row ${Math.floor(cell / grid.columns) + 1}, column ${(cell % grid.columns) + 1}`;
}

/** @param {Corners} corners @returns {Point[]} */
export function rectangle([left, top, right, bottom]) {
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
}

/**
 * The share of each cell that a region of the photo covers, exactly.
 *
 * Padding that the network saw beyond an edge of the photo counts as the pixels at that edge, so that the
 * whole photo is the whole map.
 *
 * @param {Grid} grid
 * @param {Point[]} polygon the region's corners, inside the photo
 * @param {{ width: number, height: number }} photo
 * @returns {Float64Array} rows x columns in [0, 1]
 */
export function regionWeights(grid, polygon, photo) {
  const weights = new Float64Array(grid.rows * grid.columns);
  const reaching = intoPadding(polygon, photo, grid.width + grid.height);
  for (let cell = 0; cell < weights.length; cell++) {
    const [left, top, right, bottom] = cellBox(grid, cell);
    let piece = above(reaching, 0, left, 1);
    piece = above(piece, 0, right, -1);
    piece = above(piece, 1, top, 1);
    piece = above(piece, 1, bottom, -1);
    // Where a lasso crosses itself it may cover a piece twice.
    weights[cell] = Math.min(Math.abs(area(piece)) / ((right - left) * (bottom - top)), 1);
  }
  return weights;
}

/**
 * Carry the sides that lie on an edge of the photo beyond it.
 *
 * @param {Point[]} polygon
 * @param {{ width: number, height: number }} photo
 * @param {number} reach
 * @returns {Point[]}
 */
function intoPadding(polygon, { width, height }, reach) {
  /** @type {Point[]} */
  const result = [];
  polygon.forEach((here, at) => {
    const next = polygon[(at + 1) % polygon.length];
    const x = here[0] === next[0] ? (here[0] <= 0 ? -reach : here[0] >= width ? reach : 0) : 0;
    const y = here[1] === next[1] ? (here[1] <= 0 ? -reach : here[1] >= height ? reach : 0) : 0;
    result.push(here);
    if (x || y) result.push([here[0] + x, here[1] + y], [next[0] + x, next[1] + y]);
  });
  return result;
}

/**
 * What of a polygon lies on one side of a line across an axis (Sutherland and Hodgman, 1974).
 *
 * @param {Point[]} polygon
 * @param {0 | 1} axis
 * @param {number} limit
 * @param {1 | -1} sign 1 for what is above the limit, -1 for what is below
 * @returns {Point[]}
 */
function above(polygon, axis, limit, sign) {
  /** @type {Point[]} */
  const result = [];
  polygon.forEach((here, at) => {
    const next = polygon[(at + 1) % polygon.length];
    const from = sign * (here[axis] - limit);
    const to = sign * (next[axis] - limit);
    if (from >= 0) result.push(here);
    if (from >= 0 !== to >= 0) {
      const share = from / (from - to);
      result.push([here[0] + share * (next[0] - here[0]), here[1] + share * (next[1] - here[1])]);
    }
  });
  return result;
}

/** @param {Point[]} polygon @returns {number} positive where it runs clockwise on the screen */
function area(polygon) {
  let twice = 0;
  polygon.forEach(([x, y], at) => {
    const next = polygon[(at + 1) % polygon.length];
    twice += x * next[1] - next[0] * y;
  });
  return twice / 2;
}
