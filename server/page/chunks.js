/** The chunks of PNG and WebP files. */

/**
 * @typedef {{ name: string, at: number, data: number, end: number }} Chunk
 *   at: where its name is; data, end: where its data begin and end.
 */

/**
 * @param {Uint8Array} bytes
 * @returns {Chunk[]}
 */
export function pngChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** @type {Chunk[]} */
  const chunks = [];
  // Size, name, data, checksum.
  for (let at = 8; at + 8 <= bytes.length; ) {
    const end = at + 8 + view.getUint32(at);
    chunks.push({ name: nameAt(bytes, at + 4), at: at + 4, data: at + 8, end });
    at = end + 4;
  }
  return chunks;
}

/**
 * @param {Uint8Array} bytes
 * @returns {Chunk[]}
 */
export function webpChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** @type {Chunk[]} */
  const chunks = [];
  // Name, size, data, and a byte to make that even.
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    chunks.push({ name: nameAt(bytes, at), at, data: at + 8, end: at + 8 + size });
    at += 8 + size + (size & 1);
  }
  return chunks;
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function nameAt(bytes, at) {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}
