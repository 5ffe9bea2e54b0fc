/** The contribution that gets the full colour, and how numbers are printed. */

const MINUS = '\u2212';
const LEAST_SCORE = 0.05; // below it a share of the score says nothing

/**
 * The largest contribution, for or against, rounded up to two digits; 1 if all are 0.
 *
 * @param {ArrayLike<number>[]} maps
 * @returns {number}
 */
export function sharedScale(maps) {
  let largest = 0;
  for (const values of maps) {
    for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]));
  }
  if (largest === 0) return 1;
  const exponent = Math.floor(Math.log10(largest)) - 1;
  // A value that is a decimal of two digits, but for rounding, is its own scale.
  const digits = Math.ceil(largest / 10 ** exponent - 1e-6);
  return Number(`${digits}e${exponent}`);
}

/**
 * The number at a tick of the legend.
 *
 * @param {number} value
 * @param {boolean} signed
 */
export function tickText(value, signed) {
  const text = String(Number(value.toPrecision(6))).replace('-', MINUS);
  return signed && value > 0 ? `+${text}` : text;
}

/**
 * A contribution or a score.
 *
 * @param {number} value
 * @param {number} digits behind the point
 */
export function numberText(value, digits = 4) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace('-', '') : text.replace('-', MINUS);
}

/**
 * What two cells add together, which may be very little: four digits behind the point, but at least two that count.
 *
 * @param {number} value
 */
export function pointText(value) {
  if (Math.abs(value) >= 0.001 || value === 0) return numberText(value);
  return String(Number(value.toPrecision(2))).replaceAll('-', MINUS);
}

/**
 * A number with its sign, for what raises or lowers a score.
 *
 * @param {number} value
 * @param {number} digits
 */
export function signedText(value, digits = 4) {
  const text = numberText(value, digits);
  return Number(value.toFixed(digits)) > 0 ? `+${text}` : text;
}

/**
 * A contribution's share of the score; empty where the score is near 0.
 *
 * @param {number} value
 * @param {number} score
 */
export function shareText(value, score) {
  if (Math.abs(score) < LEAST_SCORE) return '';
  return `${numberText((100 * value) / score, 1)}\u00a0%`;
}
