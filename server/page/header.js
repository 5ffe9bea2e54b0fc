/** What the first bytes of an image say: its format, and its size before anything is decoded. */

import { webpChunks } from './chunks.js';

/**
 * The format of an image, or null.
 *
 * @param {Uint8Array} bytes
 * @returns {string | null}
 */
export function formatOf(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 16));
  if (head.startsWith('\xff\xd8\xff')) return 'JPEG';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'PNG';
  if (head.startsWith('RIFF') && head.slice(8, 12) === 'WEBP') return 'WebP';
  if (/^(II\*\0|MM\0\*|II\+\0|MM\0\+)/.test(head)) return 'TIFF';
  if (/^....ftypavi[fs]/s.test(head)) return 'AVIF';
  if (/^....ftyp(hei[cfmsx]|hev[cx]|mif1)/s.test(head)) return 'HEIC';
  return null;
}

/**
 * The size that a JPEG, PNG or WebP file declares, or null.
 *
 * @param {Uint8Array} bytes
 * @param {string | null} format
 * @returns {{ width: number, height: number } | null}
 */
export function declaredSize(bytes, format) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (format === 'PNG') return { width: view.getUint32(16), height: view.getUint32(20) };
    if (format === 'JPEG') return jpegSize(view);
    if (format === 'WebP') return webpSize(bytes, view);
  } catch {
    // A RangeError: the head ends too soon, which the decoder will say.
  }
  return null;
}

/** @param {DataView} view */
function jpegSize(view) {
  for (let at = 2; view.getUint8(at) === 0xff; ) {
    const marker = view.getUint8(at + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return { height: view.getUint16(at + 5), width: view.getUint16(at + 7) };
    // Any marker may have more bytes of 255 before it.
    at += marker === 0xff ? 1 : 2 + view.getUint16(at + 2);
  }
  return null;
}

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 */
function webpSize(bytes, view) {
  const [{ name, data }] = webpChunks(bytes.subarray(0, 64));
  if (name === 'VP8X') {
    const low = view.getUint32(data + 4, true);
    const high = view.getUint32(data + 6, true);
    return { width: (low & 0xffffff) + 1, height: (high >>> 8) + 1 };
  }
  if (name === 'VP8L') {
    const bits = view.getUint32(data + 1, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  }
  return { width: view.getUint16(data + 6, true) & 0x3fff, height: view.getUint16(data + 8, true) & 0x3fff };
}
