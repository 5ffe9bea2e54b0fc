/** The fewest places that make a share of a score, and the lines around them, as `engine/figures/contours.py`. */

/** The shares that are drawn: of these sets the larger lies below the smaller, whose line is whole. */
export const SHARES = [0.8, 0.5];

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // (x, y) to the right, down, left, up

/**
 * The fewest places that together make a share of what speaks for similarity.
 *
 * Places are taken in order of their contribution, the largest first, of equal ones the first in reading order,
 * until their sum reaches `share` of the sum of all positive ones.
 *
 * @param {Float32Array} map
 * @param {number} share in (0, 1]
 * @returns {boolean[]} true at these places; none where nothing is positive
 */
export function fewestPlaces(map, share) {
  const positive = Array.from(map, (value) => Math.max(value, 0));
  const order = positive.map((_, place) => place).sort((a, b) => positive[b] - positive[a] || a - b);
  const running = new Float64Array(order.length);
  let sum = 0;
  order.forEach((place, at) => (running[at] = sum += positive[place]));
  const inside = positive.map(() => false);
  if (sum === 0) return inside;
  const last = running.findIndex((value) => value >= share * sum);
  for (const place of order.slice(0, last + 1)) inside[place] = true;
  return inside;
}

/**
 * The borders of a set of cells, as closed loops of corners (x, y) between cells.
 *
 * Outer borders run clockwise, those of holes counterclockwise; cells that touch at a corner only have loops of
 * their own.
 *
 * @param {boolean[]} inside row by row
 * @param {number} columns
 * @returns {[number, number][][]}
 */
export function cellOutlines(inside, columns) {
  const rows = inside.length / columns;
  /** @type {(y: number, x: number) => boolean} */
  const has = (y, x) => y >= 0 && y < rows && x >= 0 && x < columns && inside[y * columns + x];
  /** @type {(x: number, y: number, direction: number) => number} */
  const keyOf = (x, y, direction) => (y * (columns + 1) + x) * 4 + direction;
  // A side is its start and direction, with the cell on its right.
  /** @type {Map<number, [number, number, number]>} */
  const sides = new Map();
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (!has(y, x)) continue;
      if (!has(y - 1, x)) sides.set(keyOf(x, y, 0), [x, y, 0]);
      if (!has(y, x + 1)) sides.set(keyOf(x + 1, y, 1), [x + 1, y, 1]);
      if (!has(y + 1, x)) sides.set(keyOf(x + 1, y + 1, 2), [x + 1, y + 1, 2]);
      if (!has(y, x - 1)) sides.set(keyOf(x, y + 1, 3), [x, y + 1, 3]);
    }
  }
  /** @type {[number, number][][]} */
  const loops = [];
  /** @type {Set<number>} */
  const seen = new Set();
  for (const first of sides.keys()) {
    if (seen.has(first)) continue;
    /** @type {[number, number][]} */
    const loop = [];
    let key = first;
    while (!seen.has(key)) {
      seen.add(key);
      const [x, y, direction] = /** @type {[number, number, number]} */ (sides.get(key));
      const [endX, endY] = [x + STEPS[direction][0], y + STEPS[direction][1]];
      // To the right first: where two cells touch at a corner, that stays with the same cell.
      const turn = [1, 0, 3].find((quarter) => sides.has(keyOf(endX, endY, (direction + quarter) % 4))) ?? 0;
      if (turn !== 0) loop.push([endX, endY]);
      key = keyOf(endX, endY, (direction + turn) % 4);
    }
    loops.push(loop);
  }
  return loops;
}
