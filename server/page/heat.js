/**
 * The colours of contributions, the same as in the pictures of `simmap compare`.
 *
 * Under a map the photo turns into a grey relief; the contribution sets hue and chroma, and moves the
 * lightness of the whole relief. So lightness rises with the value on any ground, and no colour of the photo
 * competes with the heat.
 */

import { lightness, toSrgb } from './cielab.js';

/** @typedef {{ values: ArrayLike<number>, rows: number, columns: number }} Cells A map, row by row. */

// (L*, chroma, hue in degrees) at equal steps from 0 to the whole of the scale: grey, red, orange, yellow.
const FOR = [[36, 0, 30], [46, 36, 27], [56, 62, 37], [66, 74, 56], [76, 75, 77], [86, 66, 97]];
// Grey to deep blue.
const AGAINST = [[36, 0, 280], [32, 26, 283], [28, 46, 290], [24, 66, 295], [20, 80, 300]];
const RELIEF = 40; // L* between a black and a white photo where the contribution is 0
const STEPS = 256; // of the colour table on each side of 0
// Diagonal lines over what speaks against, which a grey print would show as a dark photo only.
const HATCH_PERIOD = 7; // pixels of the screen
const HATCH_FROM = 0.05; // share of the scale

/** @type {{ opacity: number, table: Uint32Array } | null} */
let latest = null;

/**
 * RGBA of each value, from against to for, on each grey.
 *
 * @param {number} opacity how much of the photo's contrast the heat covers at full scale, 0 to 1
 * @returns {Uint32Array} (2 STEPS + 1) x 256
 */
function heatTable(opacity) {
  if (latest?.opacity === opacity) return latest.table;
  const table = new Uint32Array((2 * STEPS + 1) * 256);
  const relief = Float64Array.from({ length: 256 }, (_, grey) => RELIEF * (lightness(grey) / 100 - 0.5));
  for (let step = -STEPS; step <= STEPS; step++) {
    const strength = Math.abs(step) / STEPS;
    const [light, a, b] = onRamp(step < 0 ? AGAINST : FOR, strength);
    const contrast = 1 - opacity * strength;
    for (let grey = 0; grey < 256; grey++) {
      table[(step + STEPS) * 256 + grey] = (0xff000000 | toSrgb(light + contrast * relief[grey], a, b)) >>> 0;
    }
  }
  latest = { opacity, table };
  return table;
}

/**
 * @param {number[][]} ramp
 * @param {number} strength 0 to 1
 * @returns {[number, number, number]} L*, a, b
 */
function onRamp(ramp, strength) {
  const place = strength * (ramp.length - 1);
  const low = Math.min(Math.floor(place), ramp.length - 2);
  const [from, to] = [ramp[low], ramp[low + 1]].map(([light, chroma, hue]) => {
    const angle = (hue * Math.PI) / 180;
    return [light, chroma * Math.cos(angle), chroma * Math.sin(angle)];
  });
  const [light, a, b] = from.map((value, axis) => value + (place - low) * (to[axis] - value));
  return [light, a, b];
}

/**
 * Greys of pixels, as OpenCV's RGB2GRAY.
 *
 * @param {ImageData} pixels
 * @returns {Uint8Array}
 */
export function greys({ data }) {
  const result = new Uint8Array(data.length / 4);
  for (let i = 0, at = 0; i < result.length; i++, at += 4) {
    result[i] = (9798 * data[at] + 19235 * data[at + 1] + 3735 * data[at + 2] + 16384) >> 15;
  }
  return result;
}

/**
 * Paint a map over a grey photo. Between the middles of cells the values are interpolated linearly.
 *
 * @param {ImageData} target receives the colours
 * @param {Uint8Array} ground greys of as many pixels
 * @param {Cells} cells
 * @param {number} scale the contribution that gets the full colour
 * @param {number} opacity
 * @param {number} density pixels of the target to one of the screen
 */
export function paintHeat(target, ground, { values, rows, columns }, scale, opacity, density) {
  const { width, height } = target;
  const colours = new Uint32Array(target.data.buffer);
  const table = heatTable(opacity);
  const period = Math.max(2, Math.round(HATCH_PERIOD * density));
  const thickness = Math.max(1, Math.round(density));
  const across = linearPlaces(columns, width);
  const down = linearPlaces(rows, height);
  const row = new Float32Array(columns + 1);
  for (let y = 0, at = 0; y < height; y++) {
    const above = down.low[y] * columns;
    const below = Math.min(down.low[y] + 1, rows - 1) * columns;
    for (let x = 0; x < columns; x++) {
      const value = values[above + x] + down.share[y] * (values[below + x] - values[above + x]);
      row[x] = (value / scale) * STEPS;
    }
    row[columns] = row[columns - 1];
    for (let x = 0; x < width; x++, at++) {
      const low = across.low[x];
      const value = row[low] + across.share[x] * (row[low + 1] - row[low]);
      const step = value > STEPS ? STEPS : value < -STEPS ? -STEPS : Math.round(value);
      let grey = ground[at];
      if (value < -HATCH_FROM * STEPS && (x + y) % period < thickness) grey ^= 128;
      colours[at] = table[(step + STEPS) * 256 + grey];
    }
  }
}

/**
 * The cell at or before each pixel, and how far the pixel lies on the way to the next one.
 *
 * @param {number} cells
 * @param {number} pixels
 */
function linearPlaces(cells, pixels) {
  const low = new Int32Array(pixels);
  const share = new Float32Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const place = Math.min(Math.max(((i + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
    low[i] = Math.floor(place);
    share[i] = place - low[i];
  }
  return { low, share };
}
