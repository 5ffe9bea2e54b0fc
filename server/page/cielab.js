/** Colours of CIELAB (CIE 15) as sRGB (IEC 61966-2-1), both for the white D65. */

const EPSILON = (6 / 29) ** 3; // where the cube root of CIELAB gives way to a line, and its slope
const KAPPA = (29 / 3) ** 3;
const LIGHTS = 1 << 14; // steps of linear light: finer than 8 bits of sRGB where these are finest
const LEVELS = Uint8Array.from({ length: LIGHTS }, (_, at) => {
  const light = at / (LIGHTS - 1);
  return Math.round(255 * (light <= 0.0031308 ? light * 12.92 : 1.055 * light ** (1 / 2.4) - 0.055));
});

/**
 * L* of an sRGB grey.
 *
 * @param {number} grey 0 to 255
 * @returns {number} 0 to 100
 */
export function lightness(grey) {
  const value = grey / 255;
  const light = value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  return light <= EPSILON ? light * KAPPA : 116 * Math.cbrt(light) - 16;
}

/**
 * A colour of CIELAB as sRGB, clipped to what it can show.
 *
 * @param {number} light L*
 * @param {number} a
 * @param {number} b
 * @returns {number} red + 256 green + 65536 blue
 */
export function toSrgb(light, a, b) {
  const root = (light + 16) / 116;
  const x = linear(root + a / 500);
  const y = linear(root);
  const z = linear(root - b / 200);
  const red = encoded(3.0799551 * x - 1.537139 * y - 0.5428161 * z);
  const green = encoded(-0.9212586 * x + 1.8760111 * y + 0.0452475 * z);
  const blue = encoded(0.0528874 * x - 0.2040259 * y + 1.1511385 * z);
  return red | (green << 8) | (blue << 16);
}

/** @param {number} root */
function linear(root) {
  return root > 6 / 29 ? root * root * root : (116 * root - 16) / KAPPA;
}

/** @param {number} light linear, of one channel */
function encoded(light) {
  const clipped = light < 0 ? 0 : light > 1 ? 1 : light;
  return LEVELS[Math.round(clipped * (LIGHTS - 1))];
}
