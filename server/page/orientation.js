/** EXIF orientation, where the browser does not apply it: how a camera was held. */

import { pngChunks, webpChunks } from './chunks.js';

const TAG = 0x0112;
// Files of 2 x 1 pixels that are to be turned by a quarter.
const TURNED = {
  PNG:
    'iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAGmVYSWZNTQAqAAAACAABARIAAwAAAAEABgAAAAAAANZnS2kAAAAP' +
    'SURBVHicY2BgYGBgYAAAAAcAAVchYhkAAAAASUVORK5CYII=',
  WebP:
    'UklGRk4AAABXRUJQVlA4WAoAAAAIAAAAAQAAAAAAVlA4TA4AAAAvAQAAAAcQEf0PRET/A0VYSUYaAAAATU0AKgAAAAgAAQESAAMA' +
    'AAABAAYAAAAAAAA=',
};

/** @type {Map<string, Promise<boolean>>} */
const applied = new Map();

/**
 * Whether this browser turns files of a format itself; no browser can be told to leave that.
 *
 * @param {'PNG' | 'WebP'} format
 * @returns {Promise<boolean>}
 */
export function appliesOrientation(format) {
  let answer = applied.get(format);
  if (answer === undefined) {
    const bytes = Uint8Array.from(atob(TURNED[format]), (character) => character.charCodeAt(0));
    answer = createImageBitmap(new Blob([bytes])).then(({ height }) => height === 2);
    applied.set(format, answer);
  }
  return answer;
}

/**
 * The orientation, 1 to 8, in a PNG or WebP file; 1 where it has none or its EXIF block makes no sense.
 *
 * @param {Uint8Array} bytes
 * @param {'PNG' | 'WebP'} format
 * @returns {number}
 */
export function orientationOf(bytes, format) {
  const chunks = format === 'PNG' ? pngChunks(bytes) : webpChunks(bytes);
  const chunk = chunks.find(({ name }) => name === 'eXIf' || name === 'EXIF');
  return chunk === undefined ? 1 : exifOrientation(bytes.slice(chunk.data, chunk.end));
}

/**
 * @param {Uint8Array} block a TIFF header and its directories, perhaps with "Exif\0\0" before them
 * @returns {number}
 */
function exifOrientation(block) {
  const start = String.fromCharCode(...block.subarray(0, 6)) === 'Exif\0\0' ? 6 : 0;
  const view = new DataView(block.buffer, start);
  try {
    const little = view.getUint16(0) === 0x4949;
    const directory = view.getUint32(4, little);
    const count = view.getUint16(directory, little);
    for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
      if (view.getUint16(entry, little) !== TAG) continue;
      const value = view.getUint16(entry + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  } catch {
    // A RangeError: the block ends too soon.
  }
  return 1;
}

/**
 * Turn and mirror a bitmap, which is closed.
 *
 * @param {ImageBitmap} bitmap
 * @param {number} orientation
 * @returns {Promise<ImageBitmap>}
 */
export async function oriented(bitmap, orientation) {
  const { width, height } = bitmap;
  const exchanged = orientation >= 5;
  const canvas = new OffscreenCanvas(exchanged ? height : width, exchanged ? width : height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  if (context === null) throw new Error('this browser gives no canvas');
  // From the corner that each axis then starts at.
  if ([2, 3, 6, 7].includes(orientation)) context.transform(-1, 0, 0, 1, canvas.width, 0);
  if ([3, 4, 7, 8].includes(orientation)) context.transform(1, 0, 0, -1, 0, canvas.height);
  if (exchanged) context.transform(0, 1, 1, 0, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return createImageBitmap(canvas, { colorSpaceConversion: 'none' });
}
