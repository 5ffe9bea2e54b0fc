/** From a photo's pixels to the network's input, as `engine/images/preprocess.py`. */

/** @import { Grid } from './types.js' */
/** @import { Kernel, Source } from './resize.js' */

import { resize } from './resize.js';

/**
 * @typedef {{
 *   height: number, width: number, colour: 'rgb' | 'bgr', resize: 'squash' | 'crop' | 'letterbox',
 *   kernel: Kernel, crop_fraction: number, mean: [number, number, number]
 * }} InputSpec
 *   The contract's `input`: mean is in the order `colour`, in units of x / 255.
 *
 * @typedef {Omit<Grid, 'rows' | 'columns'>} Field the rectangle of the photo that the input covers
 */

const CROP_REACH = 8; // a side that would become so many times the input's first loses its ends

/**
 * @param {Source} source the photo
 * @param {InputSpec} spec
 * @returns {{ pixels: Uint8Array, field: Field }} height x width x 3 in the order `colour`, and where it lies
 */
export function prepare(source, spec) {
  if (spec.resize === 'crop') return crop(source, spec);
  if (spec.resize === 'letterbox') return letterbox(source, spec);
  const resized = resize(source, spec.height, spec.width, spec.kernel);
  const pixels = blank(spec);
  copyInto(pixels, spec, { pixels: resized, height: spec.height, width: spec.width }, 0, 0);
  return { pixels, field: { x: 0, y: 0, width: source.width, height: source.height } };
}

/**
 * @param {Source} source
 * @param {InputSpec} spec
 * @returns {{ pixels: Uint8Array, field: Field }}
 */
function crop(source, spec) {
  const scale = Math.max(spec.height / source.height, spec.width / source.width) / spec.crop_fraction;
  const height = kept(source.height, spec.height, scale);
  const width = kept(source.width, spec.width, scale);
  const above = (source.height - height) >> 1;
  const before = (source.width - width) >> 1;
  const resizedHeight = Math.max(spec.height, round(height * scale));
  const resizedWidth = Math.max(spec.width, round(width * scale));
  const resized = resize(part(source, above, before, height, width), resizedHeight, resizedWidth, spec.kernel);
  const top = (resizedHeight - spec.height) >> 1;
  const left = (resizedWidth - spec.width) >> 1;
  const pixels = blank(spec);
  copyInto(pixels, spec, { pixels: resized, height: resizedHeight, width: resizedWidth }, -top, -left);
  const across = width / resizedWidth;
  const down = height / resizedHeight;
  return {
    pixels,
    field: {
      x: before + left * across,
      y: above + top * down,
      width: spec.width * across,
      height: spec.height * down,
    },
  };
}

/**
 * How many of a side's pixels to resize, as many cut at one end as at the other.
 *
 * @param {number} side
 * @param {number} target
 * @param {number} scale
 */
function kept(side, target, scale) {
  if (side * scale <= CROP_REACH * target) return side;
  const count = Math.floor((CROP_REACH * target) / scale) + 1;
  return Math.min(side, count + ((side - count) & 1));
}

/**
 * @param {Source} source
 * @param {number} above
 * @param {number} before
 * @param {number} height
 * @param {number} width
 * @returns {Source}
 */
function part(source, above, before, height, width) {
  if (height === source.height && width === source.width) return source;
  return {
    height,
    width,
    rows(top, count) {
      const rows = source.rows(above + top, count);
      const cut = new Uint8Array(4 * width * count);
      for (let y = 0; y < count; y++) {
        const start = 4 * (y * source.width + before);
        for (let i = 0; i < 4 * width; i++) cut[4 * width * y + i] = rows[start + i];
      }
      return cut;
    },
  };
}

/**
 * @param {Source} source
 * @param {InputSpec} spec
 * @returns {{ pixels: Uint8Array, field: Field }}
 */
function letterbox(source, spec) {
  const scale = Math.min(spec.height / source.height, spec.width / source.width);
  // A very thin photo keeps at least one row or column.
  const height = Math.min(spec.height, Math.max(1, round(source.height * scale)));
  const width = Math.min(spec.width, Math.max(1, round(source.width * scale)));
  const top = (spec.height - height) >> 1;
  const left = (spec.width - width) >> 1;
  const pixels = blank(spec);
  copyInto(pixels, spec, { pixels: resize(source, height, width, spec.kernel), height, width }, top, left);
  const across = source.width / width;
  const down = source.height / height;
  return {
    pixels,
    field: { x: -left * across, y: -top * down, width: spec.width * across, height: spec.height * down },
  };
}

/**
 * The network's input in the constant colour mean.
 *
 * @param {InputSpec} spec
 * @returns {Uint8Array}
 */
function blank({ height, width, mean }) {
  const colour = mean.map((value) => Math.min(Math.max(round(255 * value), 0), 255));
  return new Uint8Array(3 * height * width).map((_, at) => colour[at % 3]);
}

/**
 * Lay resized pixels onto the input; what reaches beyond it is cut.
 *
 * @param {Uint8Array} pixels the input
 * @param {InputSpec} spec
 * @param {{ pixels: Uint8ClampedArray, height: number, width: number }} resized RGBA
 * @param {number} top row of the input where the first row of the resized pixels goes
 * @param {number} left
 */
function copyInto(pixels, spec, resized, top, left) {
  const [red, blue] = spec.colour === 'bgr' ? [2, 0] : [0, 2];
  for (let y = Math.max(0, top); y < Math.min(spec.height, top + resized.height); y++) {
    for (let x = Math.max(0, left); x < Math.min(spec.width, left + resized.width); x++) {
      const to = 3 * (y * spec.width + x);
      const at = 4 * ((y - top) * resized.width + (x - left));
      pixels[to + red] = resized.pixels[at];
      pixels[to + 1] = resized.pixels[at + 1];
      pixels[to + blue] = resized.pixels[at + 2];
    }
  }
}

/**
 * To the nearest whole number, halves to the even one, as Python rounds.
 *
 * @param {number} value not negative
 */
function round(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor + (floor % 2);
}
