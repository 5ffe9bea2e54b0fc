/**
 * Photos at another size, as OpenCV's INTER_AREA, INTER_LINEAR and INTER_CUBIC resize 8-bit pixels.
 *
 * All three are separable: a row of the result is a weighted sum of rows of the photo, each resized across
 * first. The photo is read once, a strip of rows at a time, so a large one needs no more memory.
 */

/** @import { Taps } from './taps.js' */

import { areaTaps, boxTaps, cubicTaps, growingTaps, linearTaps, transposed } from './taps.js';

/**
 * @typedef {{ width: number, height: number, rows: (top: number, count: number) => ArrayLike<number> }} Source
 *   Pixels to resize: `rows` gives count rows from `top` on, as RGBA.
 * @typedef {'area' | 'linear' | 'cubic'} Kernel
 */

const STRIP = 1 << 20; // pixels that are read at a time

/**
 * Resize as `engine/images/resize.py`: where one side shrinks and the other grows, INTER_AREA shrinks first.
 *
 * @param {Source} source
 * @param {number} height
 * @param {number} width
 * @param {Kernel} kernel
 * @returns {Uint8ClampedArray} height x width x 4, RGBA; A has no meaning
 */
export function resize(source, height, width, kernel) {
  const shrunkHeight = Math.min(height, source.height);
  const shrunkWidth = Math.min(width, source.width);
  const shrinks = shrunkHeight < source.height || shrunkWidth < source.width;
  const grows = shrunkHeight < height || shrunkWidth < width;
  if (kernel === 'area' && shrinks && grows) {
    const shrunk = resizeOnce(source, shrunkHeight, shrunkWidth, kernel);
    return resizeOnce(sourceOf(shrunk, shrunkHeight, shrunkWidth), height, width, kernel);
  }
  return resizeOnce(source, height, width, kernel);
}

/**
 * @param {ArrayLike<number> & { subarray(start: number, end: number): ArrayLike<number> }} pixels RGBA
 * @param {number} height
 * @param {number} width
 * @returns {Source}
 */
export function sourceOf(pixels, height, width) {
  return { width, height, rows: (top, count) => pixels.subarray(4 * width * top, 4 * width * (top + count)) };
}

/**
 * @param {Source} source
 * @param {number} height
 * @param {number} width
 * @param {Kernel} kernel
 * @returns {Uint8ClampedArray}
 */
function resizeOnce(source, height, width, kernel) {
  if (height === source.height && width === source.width) return Uint8ClampedArray.from(source.rows(0, height));
  const boxHeight = source.height / height;
  const boxWidth = source.width / width;
  const halves = boxHeight === 2 && boxWidth === 2;
  if (kernel === 'cubic') {
    return finished(weightedSums(source, cubicTaps(source.height, height), cubicTaps(source.width, width)), Math.fround);
  }
  // OpenCV takes INTER_AREA for INTER_LINEAR at exactly half the size.
  if ((kernel === 'linear' && !halves) || height > source.height || width > source.width) {
    const taps = kernel === 'linear' ? linearTaps : growingTaps;
    const sums = fixedPointSums(source, taps(source.height, height), taps(source.width, width));
    return finished(sums, (sum) => (sum + 2) >> 2);
  }
  if (!Number.isInteger(boxHeight) || !Number.isInteger(boxWidth)) {
    return finished(weightedSums(source, areaTaps(source.height, height), areaTaps(source.width, width)), Math.fround);
  }
  const sums = weightedSums(source, boxTaps(source.height, boxHeight), boxTaps(source.width, boxWidth));
  // The mean of 2 x 2 pixels is rounded up at a half, others to even.
  if (halves) return finished(sums, (sum) => (sum + 2) >> 2);
  const share = Math.fround(1 / (boxHeight * boxWidth));
  return finished(sums, (sum) => Math.fround(sum * share));
}

/**
 * In float32 at every step, as OpenCV: in float64 a sum may fall on the other side of a half.
 *
 * @param {Source} source
 * @param {Taps} down
 * @param {Taps} across
 * @returns {Float32Array} height x width x 3
 */
function weightedSums(source, down, across) {
  const width = 3 * (across.starts.length - 1);
  const sums = new Float32Array((down.starts.length - 1) * width);
  eachUse(source, down, across, (row, index, weight) => {
    const start = index * width;
    for (let i = 0; i < width; i++) sums[start + i] += Math.fround(weight * row[i]);
  });
  return sums;
}

/**
 * As OpenCV's linear kernel, which drops bits of whole numbers between the two directions.
 *
 * @param {Source} source
 * @param {Taps} down
 * @param {Taps} across
 * @returns {Float64Array} height x width x 3, in quarters
 */
function fixedPointSums(source, down, across) {
  const width = 3 * (across.starts.length - 1);
  const sums = new Float64Array((down.starts.length - 1) * width);
  eachUse(source, down, across, (row, index, weight) => {
    const start = index * width;
    for (let i = 0; i < width; i++) sums[start + i] += (weight * (row[i] >> 4)) >> 16;
  });
  return sums;
}

/**
 * Resize each row across, and give it to each row of the result that takes a share of it.
 *
 * @param {Source} source
 * @param {Taps} down
 * @param {Taps} across
 * @param {(row: Float32Array, index: number, weight: number) => void} use
 */
function eachUse(source, down, across, use) {
  const { starts, from, weights } = transposed(down, source.height);
  const row = new Float32Array(3 * (across.starts.length - 1));
  const strip = Math.max(1, Math.floor(STRIP / source.width));
  for (let top = 0; top < source.height; top += strip) {
    const bottom = Math.min(top + strip, source.height);
    if (starts[top] === starts[bottom]) continue;
    const pixels = source.rows(top, bottom - top);
    for (let y = top; y < bottom; y++) {
      if (starts[y] === starts[y + 1]) continue;
      resizeRow(pixels, 4 * source.width * (y - top), across, row);
      for (let t = starts[y]; t < starts[y + 1]; t++) use(row, from[t], weights[t]);
    }
  }
}

/**
 * @param {ArrayLike<number>} pixels RGBA
 * @param {number} offset of the row in them
 * @param {Taps} across
 * @param {Float32Array} row receives RGB
 */
function resizeRow(pixels, offset, { starts, from, weights }, row) {
  for (let x = 0, t = 0; x < starts.length - 1; x++) {
    let red = 0;
    let green = 0;
    let blue = 0;
    for (const end = starts[x + 1]; t < end; t++) {
      const weight = weights[t];
      const at = offset + 4 * from[t];
      red = Math.fround(red + Math.fround(weight * pixels[at]));
      green = Math.fround(green + Math.fround(weight * pixels[at + 1]));
      blue = Math.fround(blue + Math.fround(weight * pixels[at + 2]));
    }
    row[3 * x] = red;
    row[3 * x + 1] = green;
    row[3 * x + 2] = blue;
  }
}

/**
 * @param {Float32Array | Float64Array} sums RGB
 * @param {(sum: number) => number} finish
 * @returns {Uint8ClampedArray} RGBA
 */
function finished(sums, finish) {
  const pixels = new Uint8ClampedArray((sums.length / 3) * 4); // rounds halves to even, as OpenCV
  for (let i = 0, to = 0; i < sums.length; i += 3, to += 4) {
    for (let c = 0; c < 3; c++) pixels[to + c] = finish(sums[i + c]);
  }
  return pixels;
}
