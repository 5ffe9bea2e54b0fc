/** The pixels of a decoded photo, read through a canvas. */

/** @import { Source } from './resize.js' */

const TILE = 8192; // browsers limit the width of a canvas

/**
 * @param {ImageBitmap} bitmap
 * @returns {Source}
 */
export function sourceOfBitmap(bitmap) {
  const { width, height } = bitmap;
  return {
    width,
    height,
    rows(top, count) {
      if (width <= TILE) return tile(bitmap, 0, top, width, count);
      const rows = new Uint8ClampedArray(4 * width * count);
      for (let left = 0; left < width; left += TILE) {
        const across = Math.min(TILE, width - left);
        const pixels = tile(bitmap, left, top, across, count);
        for (let y = 0; y < count; y++) {
          rows.set(pixels.subarray(4 * across * y, 4 * across * (y + 1)), 4 * (width * y + left));
        }
      }
      return rows;
    },
  };
}

/**
 * Whether this browser changes pixels that a page reads, as a protection against being recognised.
 *
 * @returns {Promise<boolean>}
 */
export async function addsNoise() {
  const side = 64;
  const pattern = new Uint8ClampedArray(4 * side * side);
  for (let i = 0; i < pattern.length; i++) pattern[i] = i % 4 === 3 ? 255 : (i * i * 31 + i * 7) % 251;
  const bitmap = await createImageBitmap(new ImageData(pattern, side, side), { colorSpaceConversion: 'none' });
  const read = tile(bitmap, 0, 0, side, side);
  bitmap.close();
  return read.some((value, i) => value !== pattern[i]);
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number} left
 * @param {number} top
 * @param {number} width
 * @param {number} height
 * @returns {Uint8ClampedArray} RGBA
 */
function tile(bitmap, left, top, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  if (context === null) throw new Error('this browser gives no canvas; use a current one');
  context.globalCompositeOperation = 'copy';
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
