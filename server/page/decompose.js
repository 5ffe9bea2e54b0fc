/**
 * A cosine similarity as a sum over places, exact, as `engine/decompose.py`.
 *
 * parts (places x D) are what each place adds to the embedding e (D,): the parts and the rest sum to e. The score
 * is the cosine of two embeddings, u_i . u_j with u = e / |e|. See "Visualizing Deep Similarity Networks"
 * (Stylianou, Souvenir, Pless; WACV 2019).
 */

/**
 * @typedef {{ embedding: Float32Array, parts: Float32Array, rest: Float32Array | null, places: number }} Explained
 *   One image: embedding (D,), parts (places x D, place by place), and rest (D,), what no place owns; null where
 *   every part of the embedding has a place.
 *
 * @typedef {'avg' | 'max' | 'gem' | 'avgmax' | 'catavgmax'} Pooling
 * @typedef {{ pooling: string, p: number | null, eps: number | null }} Pooled
 */

const GEM_EPS = 1e-6;
const TOLERANCE = 2e-5; // of the sum of parts, as `engine/places.py`

/**
 * Share each pooled feature out among the places.
 *
 * @param {Float32Array} alpha the last feature map, C x places
 * @param {number} places
 * @param {Pooled} pooled
 * @returns {Float32Array} parts, places x C, or places x 2 C for catavgmax
 */
export function partsOf(alpha, places, { pooling, p, eps }) {
  const channels = alpha.length / places;
  const dimension = pooling === 'catavgmax' ? 2 * channels : channels;
  const parts = new Float32Array(places * dimension);
  const shares = new Float64Array(places);
  for (let channel = 0; channel < channels; channel++) {
    const values = alpha.subarray(channel * places, (channel + 1) * places);
    shareOut(values, pooling === 'catavgmax' ? 'avg' : pooling, p, eps ?? GEM_EPS, shares);
    for (let place = 0; place < places; place++) parts[place * dimension + channel] = shares[place];
    if (pooling !== 'catavgmax') continue;
    shareOut(values, 'max', p, GEM_EPS, shares);
    for (let place = 0; place < places; place++) parts[place * dimension + channels + channel] = shares[place];
  }
  return parts;
}

/**
 * What each place adds to one pooled feature.
 *
 * @param {Float32Array} values of the feature at each place
 * @param {string} pooling
 * @param {number | null} p
 * @param {number} eps
 * @param {Float64Array} shares receives them
 */
function shareOut(values, pooling, p, eps, shares) {
  const places = values.length;
  if (pooling === 'avg') {
    for (let x = 0; x < places; x++) shares[x] = values[x] / places;
  } else if (pooling === 'max') {
    shareMaximum(values, shares);
  } else if (pooling === 'avgmax') {
    shareMaximum(values, shares);
    for (let x = 0; x < places; x++) shares[x] = (shares[x] + values[x] / places) / 2;
  } else if (pooling === 'gem') {
    const floored = values.map((value) => Math.max(value, eps));
    if (p === null || p === Infinity) return shareMaximum(floored, shares);
    const top = maximum(floored);
    let sum = 0;
    for (let x = 0; x < places; x++) {
      shares[x] = (floored[x] / top) ** p;
      sum += shares[x];
    }
    const beta = top * (sum / places) ** (1 / p);
    for (let x = 0; x < places; x++) shares[x] *= beta / sum;
  } else {
    throw new Error(`this page does not know pooling '${pooling}'; update simmap and make the page again`);
  }
}

/**
 * The maximum, shared evenly among the places that tie.
 *
 * @param {Float32Array} values
 * @param {Float64Array} shares
 */
function shareMaximum(values, shares) {
  const top = maximum(values);
  let ties = 0;
  for (let x = 0; x < values.length; x++) if (values[x] === top) ties++;
  for (let x = 0; x < values.length; x++) shares[x] = values[x] === top ? top / ties : 0;
}

/** @param {Float32Array} values */
function maximum(values) {
  let top = -Infinity;
  for (let x = 0; x < values.length; x++) if (values[x] > top) top = values[x];
  return top;
}

/**
 * What of an image's own embedding no place owns.
 *
 * @param {Float32Array} embedding
 * @param {Float32Array} parts
 * @returns {Float32Array}
 */
export function ownRest(embedding, parts) {
  const rest = Float64Array.from(embedding);
  for (let i = 0; i < parts.length; i++) rest[i % rest.length] -= parts[i];
  return Float32Array.from(rest);
}

/**
 * Why an image cannot be compared, or null.
 *
 * @param {Explained} image
 * @returns {'zero' | 'infinite' | 'unequal' | null} the embedding is zero, it or the parts are not finite, or
 *   the parts and the rest do not sum to it
 */
export function fault({ embedding, parts, rest }) {
  const norm = length(embedding);
  if (!Number.isFinite(norm) || !parts.every(Number.isFinite)) return 'infinite';
  if (norm === 0) return 'zero';
  const dimension = embedding.length;
  const sums = new Float64Array(dimension);
  const sizes = new Float64Array(dimension);
  for (const values of rest === null ? [parts] : [parts, rest]) {
    for (let i = 0; i < values.length; i++) {
      sums[i % dimension] += values[i];
      sizes[i % dimension] += Math.abs(values[i]);
    }
  }
  const difference = length(sums.map((sum, d) => sum - embedding[d]));
  const size = length(sizes.map((value, d) => value + Math.abs(embedding[d])));
  return difference <= TOLERANCE * size ? null : 'unequal';
}

/**
 * The score of two images and all that is drawn of it; names as in types.js, `Pair`.
 *
 * @param {Explained} first
 * @param {Explained} second
 * @returns {{
 *   score: number, residuals: [number, number], maps: [Float32Array, Float32Array],
 *   influence: [Float32Array, Float32Array], points: Float32Array
 * }}
 */
export function comparePair(first, second) {
  const [one, other] = [unit(first.embedding), unit(second.embedding)];
  const score = dot(one, 0, other);
  /** @type {[Float32Array, Float32Array]} */
  const maps = [directionMap(first, other), directionMap(second, one)];
  /** @type {[Float32Array, Float32Array]} */
  const influence = [
    directionMap(first, influenceDirection(one, other, score)),
    directionMap(second, influenceDirection(other, one, score)),
  ];
  return {
    score,
    residuals: [residual(first, other), residual(second, one)],
    maps,
    influence,
    points: pointTable(first, second),
  };
}

/**
 * parts[x] . d / |e|: what each place adds to the inner product of the unit embedding with d.
 *
 * @param {Explained} image
 * @param {Float64Array} direction
 * @returns {Float32Array} a value for each place
 */
function directionMap({ embedding, parts, places }, direction) {
  const norm = length(embedding);
  const scaled = direction.map((value) => value / norm);
  return Float32Array.from({ length: places }, (_, place) => dot(parts, place * scaled.length, scaled));
}

/**
 * d - (u . d) u: the direction whose map says which places raise and which lower u . d.
 *
 * @param {Float64Array} own u
 * @param {Float64Array} direction d
 * @param {number} product u . d
 * @returns {Float64Array}
 */
function influenceDirection(own, direction, product) {
  return direction.map((value, d) => value - product * own[d]);
}

/**
 * The part of the score that no place of the image owns.
 *
 * @param {Explained} image
 * @param {Float64Array} direction
 */
function residual({ embedding, rest }, direction) {
  return rest === null ? 0 : dot(rest, 0, direction) / length(embedding);
}

/**
 * What each place of the first image and each of the second add together.
 *
 * @param {Explained} first
 * @param {Explained} second
 * @returns {Float32Array} places of the first x places of the second
 */
function pointTable(first, second) {
  const dimension = first.embedding.length;
  const norms = length(first.embedding) * length(second.embedding);
  const table = new Float32Array(first.places * second.places);
  for (let x = 0; x < first.places; x++) {
    const query = Float64Array.from(first.parts.subarray(x * dimension, (x + 1) * dimension), (v) => v / norms);
    for (let y = 0; y < second.places; y++) table[x * second.places + y] = dot(second.parts, y * dimension, query);
  }
  return table;
}

/**
 * @param {Float32Array} embedding
 * @returns {Float64Array}
 */
function unit(embedding) {
  const norm = length(embedding);
  return Float64Array.from(embedding, (value) => value / norm);
}

/** @param {Float32Array | Float64Array} vector */
function length(vector) {
  let sum = 0;
  for (let i = 0; i < vector.length; i++) sum += vector[i] * vector[i];
  return Math.sqrt(sum);
}

/**
 * @param {Float32Array | Float64Array} values
 * @param {number} start
 * @param {Float64Array} vector
 */
function dot(values, start, vector) {
  let sum = 0;
  for (let i = 0; i < vector.length; i++) sum += values[start + i] * vector[i];
  return sum;
}
