/** A pair as JSON, with the names of `simmap compare --json` and of `POST /v1/compare?points=1`. */

/** @import { Grid, Model, Pair } from './types.js' */

/**
 * @typedef {{
 *   score: number, residuals: [number, number], maps: [number[][], number[][]],
 *   influence: [number[][], number[][]], points: number[][], grids: [Grid, Grid], model: Model
 * }} PairJson
 */

/**
 * @param {PairJson} json
 * @returns {Pair}
 */
export function pairFromJson({ score, residuals, maps, influence, points, grids, model }) {
  return {
    score,
    residuals,
    maps: [flat(maps[0]), flat(maps[1])],
    influence: [flat(influence[0]), flat(influence[1])],
    points: flat(points),
    grids,
    model,
  };
}

/**
 * @param {Pair} pair
 * @returns {PairJson}
 */
export function pairToJson({ score, residuals, maps, influence, points, grids, model }) {
  return {
    score,
    residuals,
    maps: [rowsOf(maps[0], grids[0].columns), rowsOf(maps[1], grids[1].columns)],
    influence: [rowsOf(influence[0], grids[0].columns), rowsOf(influence[1], grids[1].columns)],
    points: rowsOf(points, grids[1].rows * grids[1].columns),
    grids,
    model,
  };
}

/** @param {number[][]} rows */
function flat(rows) {
  return Float32Array.from(rows.flat());
}

/**
 * @param {Float32Array} values
 * @param {number} columns
 * @returns {number[][]}
 */
function rowsOf(values, columns) {
  return Array.from({ length: values.length / columns }, (_, row) =>
    // Nine digits name a float32 exactly.
    Array.from(values.subarray(row * columns, (row + 1) * columns), (value) => Number(value.toPrecision(9))),
  );
}
