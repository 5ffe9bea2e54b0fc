/** From a file to a photo, or one sentence that says what is wrong with it and how to mend it. */

/** @import { Photo } from './types.js' */

import { declaredSize, formatOf } from './header.js';
import { appliesOrientation, orientationOf, oriented } from './orientation.js';
import { withoutAlpha } from './translucent.js';

export const MAX_PIXELS = 200_000_000; // as the engine's option max_pixels

export class PhotoError extends Error {
  /**
   * @param {string} message one sentence with the mend
   * @param {0 | 1 | null} photo which of a pair, where that is known
   */
  constructor(message, photo = null) {
    super(message);
    this.name = 'PhotoError';
    this.photo = photo;
  }
}

/**
 * Decode a photo as the engine does: its EXIF orientation applied, its colour profile not.
 *
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Photo>}
 * @throws {PhotoError} the file is empty or cut off, is no image that this browser reads, or has too many pixels
 */
export async function readPhoto(blob, name) {
  if (blob.size === 0) throw new PhotoError(`${name} is empty; copy or download it again.`);
  const bytes = await read(blob, name);
  const format = formatOf(bytes);
  if (isCutOff(bytes, format)) throw new PhotoError(`${name} is cut off; copy or download it again.`);
  checkSize(declaredSize(bytes, format), name);
  const bitmap = await decode(blob, bytes, name, format);
  checkSize(bitmap, name);
  return { name, blob, width: bitmap.width, height: bitmap.height, bitmap };
}

/**
 * @param {{ width: number, height: number } | null} size
 * @param {string} name
 */
function checkSize(size, name) {
  if (size === null || size.width * size.height <= MAX_PIXELS) return;
  throw new PhotoError(
    `${name} has ${size.width} x ${size.height} pixels, more than the limit of ${MAX_PIXELS}; make it smaller.`,
  );
}

/**
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Uint8Array>}
 */
async function read(blob, name) {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch {
    throw new PhotoError(`${name} cannot be read; choose it again, or copy it to this computer first.`);
  }
}

/**
 * @param {Blob} blob
 * @param {Uint8Array} bytes of it
 * @param {string} name
 * @param {string | null} format
 * @returns {Promise<ImageBitmap>}
 */
async function decode(blob, bytes, name, format) {
  try {
    if (format !== 'PNG' && format !== 'WebP') return await decodeByBrowser(blob);
    const opaque = await withoutAlpha(bytes, format);
    const isDecoded = opaque instanceof ImageBitmap;
    const bitmap = isDecoded ? opaque : await decodeByBrowser(opaque ?? blob);
    const orientation = orientationOf(bytes, format);
    if (orientation === 1 || (!isDecoded && (await appliesOrientation(format)))) return bitmap;
    return await oriented(bitmap, orientation);
  } catch {
    if (format === null) {
      throw new PhotoError(`${name} is not an image that this browser reads; convert it to JPEG, PNG or WebP.`);
    }
    if (format === 'JPEG' || format === 'PNG' || format === 'WebP') {
      throw new PhotoError(`${name} is a damaged ${format} image; copy it again, or save it as 8-bit PNG.`);
    }
    throw new PhotoError(
      `${name} is a ${format} image, which this browser does not read or which is damaged; ` +
        'convert it to JPEG, PNG or WebP.',
    );
  }
}

/**
 * @param {Blob} blob
 * @returns {Promise<ImageBitmap>}
 */
function decodeByBrowser(blob) {
  return createImageBitmap(blob, {
    colorSpaceConversion: 'none',
    premultiplyAlpha: 'none',
    imageOrientation: 'from-image',
  });
}

/**
 * Whether a file ends before its image does. Browsers show what there is of such an image.
 *
 * @param {Uint8Array} bytes
 * @param {string | null} format
 */
function isCutOff(bytes, format) {
  if (format === 'JPEG') return !endsJpeg(bytes);
  if (format === 'PNG') return bytes.length < 20 || !includes(bytes, [0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82]);
  if (format === 'WebP') return new DataView(bytes.buffer).getUint32(4, true) + 8 > bytes.length;
  return false;
}

/**
 * Whether an end marker follows the last scan of a JPEG; a thumbnail in its head has one of its own.
 *
 * @param {Uint8Array} bytes
 */
function endsJpeg(bytes) {
  for (let at = bytes.length - 2; at >= 0; at--) {
    if (bytes[at] !== 0xff) continue;
    if (bytes[at + 1] === 0xd9) return true;
    if (bytes[at + 1] === 0xda) return false;
  }
  return false;
}

/**
 * @param {Uint8Array} bytes
 * @param {number[]} sequence
 */
function includes(bytes, sequence) {
  for (let at = bytes.length - sequence.length; at >= 0; at--) {
    if (sequence.every((value, i) => bytes[at + i] === value)) return true;
  }
  return false;
}
