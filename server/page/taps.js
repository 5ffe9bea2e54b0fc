/** Which pixels of one side of a photo make each pixel of the resized side, with what weights, as in OpenCV. */

/**
 * @typedef {{ starts: Int32Array, from: Int32Array, weights: Float64Array }} Taps
 *   Pixel i of the result is the sum of weights[t] * source[from[t]] for t from starts[i] up to starts[i + 1].
 */

const UNIT = 2048; // linear weights are whole multiples of 1 / UNIT, in OpenCV
const CUBIC = -0.75; // OpenCV's parameter of the cubic kernel
const NOTHING = 1e-3; // OpenCV leaves out a smaller share of a pixel

/**
 * INTER_AREA on a side that shrinks: each pixel by the share of it that is covered.
 *
 * @param {number} size of the source
 * @param {number} target
 * @returns {Taps}
 */
export function areaTaps(size, target) {
  const scale = size / target;
  return gather(target, (index, add) => {
    const low = index * scale;
    const high = low + scale;
    const width = Math.min(scale, size - low);
    const last = Math.min(Math.floor(high), size - 1);
    const first = Math.min(Math.ceil(low), last);
    if (first - low > NOTHING) add(first - 1, Math.fround((first - low) / width));
    for (let at = first; at < last; at++) add(at, Math.fround(1 / width));
    if (high - last > NOTHING) add(last, Math.fround(Math.min(high - last, 1, width) / width));
  });
}

/**
 * INTER_AREA where both sides shrink by whole numbers: plain sums of `box` pixels.
 *
 * @param {number} size
 * @param {number} box
 * @returns {Taps}
 */
export function boxTaps(size, box) {
  return gather(size / box, (index, add) => {
    for (let at = index * box; at < (index + 1) * box; at++) add(at, 1);
  });
}

/**
 * INTER_AREA where no side shrinks: pixels with blended borders between them; the weights of each sum to UNIT.
 *
 * @param {number} size
 * @param {number} target
 * @returns {Taps}
 */
export function growingTaps(size, target) {
  const inverse = target / size;
  return gather(target, (index, add) => {
    const first = Math.floor(index * (1 / inverse));
    const beyond = Math.fround(index + 1 - (first + 1) * inverse);
    addLinear(size, first, beyond <= 0 ? 0 : Math.fround(beyond - Math.floor(beyond)), add);
  });
}

/**
 * INTER_LINEAR; the weights of each pixel sum to UNIT.
 *
 * @param {number} size
 * @param {number} target
 * @returns {Taps}
 */
export function linearTaps(size, target) {
  return gather(target, (index, add) => {
    const [first, share] = centre(size, target, index);
    addLinear(size, first, share, add);
  });
}

/**
 * INTER_CUBIC.
 *
 * @param {number} size
 * @param {number} target
 * @returns {Taps}
 */
export function cubicTaps(size, target) {
  return gather(target, (index, add) => {
    const [first, share] = centre(size, target, index);
    const weights = cubicWeights(share);
    weights.forEach((weight, at) => add(clamp(first + at - 1, size), weight));
  });
}

/**
 * The same weights by source pixel: result pixel `from[t]` takes weights[t] of it.
 *
 * @param {Taps} taps
 * @param {number} size of the source
 * @returns {Taps}
 */
export function transposed({ starts, from, weights }, size) {
  /** @type {[number, number][][]} */
  const users = Array.from({ length: size }, () => []);
  for (let index = 0; index < starts.length - 1; index++) {
    for (let tap = starts[index]; tap < starts[index + 1]; tap++) users[from[tap]].push([index, weights[tap]]);
  }
  return gather(size, (index, add) => users[index].forEach(([user, weight]) => add(user, weight)));
}

/**
 * @param {number} count
 * @param {(index: number, add: (from: number, weight: number) => void) => void} describe
 * @returns {Taps}
 */
function gather(count, describe) {
  const starts = new Int32Array(count + 1);
  /** @type {number[]} */
  const from = [];
  /** @type {number[]} */
  const weights = [];
  for (let index = 0; index < count; index++) {
    describe(index, (at, weight) => {
      from.push(at);
      weights.push(weight);
    });
    starts[index + 1] = from.length;
  }
  return { starts, from: Int32Array.from(from), weights: Float64Array.from(weights) };
}

/**
 * The source pixel left of the centre of a result's pixel, and how far beyond its centre that lies.
 *
 * @param {number} size
 * @param {number} target
 * @param {number} index
 * @returns {[number, number]}
 */
function centre(size, target, index) {
  const place = Math.fround((index + 0.5) * (1 / (target / size)) - 0.5);
  const first = Math.floor(place);
  return [first, Math.fround(place - first)];
}

/**
 * @param {number} size
 * @param {number} first
 * @param {number} share of the pixel after it
 * @param {(from: number, weight: number) => void} add
 */
function addLinear(size, first, share, add) {
  add(clamp(first, size), whole(Math.fround(1 - share)));
  add(clamp(first + 1, size), whole(share));
}

/**
 * @param {number} share
 * @returns {number[]}
 */
function cubicWeights(share) {
  const f = Math.fround;
  const one = f(((CUBIC * (share + 1) - 5 * CUBIC) * (share + 1) + 8 * CUBIC) * (share + 1) - 4 * CUBIC);
  const two = f(((CUBIC + 2) * share - (CUBIC + 3)) * share * share + 1);
  const rest = 1 - share;
  const three = f(((CUBIC + 2) * rest - (CUBIC + 3)) * rest * rest + 1);
  return [one, two, three, f(1 - one - two - three)];
}

/**
 * A weight in multiples of 1 / UNIT; halves go to the even number.
 *
 * @param {number} weight
 */
function whole(weight) {
  const value = Math.fround(weight * UNIT);
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * @param {number} at
 * @param {number} size
 */
function clamp(at, size) {
  return Math.min(Math.max(at, 0), size - 1);
}
