/**
 * PNG and WebP files with an alpha channel. The engine drops it and keeps the colours below; a canvas would blend
 * them and lose those of transparent pixels. So the file's alpha goes before the browser decodes it, or, where the
 * format mixes it with the colours, the file is decoded here.
 */

import { pngChunks, webpChunks } from './chunks.js';

/**
 * A file's colours without its alpha.
 *
 * @param {Uint8Array} bytes
 * @param {'PNG' | 'WebP'} format
 * @returns {Promise<Blob | ImageBitmap | null>} a file without alpha, pixels before their orientation, or null
 *   where there is no alpha to drop, or no way to: lossless WebP and interlaced PNG
 */
export async function withoutAlpha(bytes, format) {
  if (format === 'WebP') return opaqueWebp(bytes);
  const colourType = bytes[25];
  if (colourType !== 4 && colourType !== 6) return withoutTransparentColour(bytes);
  const isInterlaced = bytes[28] !== 0;
  return isInterlaced ? null : decodePng(bytes, colourType === 6 ? 4 : 2);
}

/**
 * A lossy WebP file has its alpha in a chunk of its own, which decoders pass over where the head says that there is
 * none. In a lossless one it cannot be told from the colours; such a file stays as it is.
 *
 * @param {Uint8Array} bytes
 * @returns {Blob | null}
 */
function opaqueWebp(bytes) {
  const chunks = webpChunks(bytes);
  const head = chunks.find(({ name }) => name === 'VP8X');
  const alpha = chunks.find(({ name }) => name === 'ALPH');
  if (head === undefined || alpha === undefined) return null;
  const copy = bytes.slice();
  copy[head.data] &= ~0x10;
  copy.fill(0x58, alpha.at, alpha.at + 4); // a name that no decoder knows
  return new Blob([copy]);
}

/**
 * A PNG without the chunk that makes a colour, or entries of its palette, transparent.
 *
 * @param {Uint8Array} bytes
 * @returns {Blob | null}
 */
function withoutTransparentColour(bytes) {
  const chunk = pngChunks(bytes).find(({ name }) => name === 'tRNS');
  if (chunk === undefined) return null;
  return new Blob([bytes.slice(0, chunk.data - 8), bytes.slice(chunk.end + 4)]);
}

/**
 * @param {Uint8Array} bytes
 * @param {2 | 4} samples of a pixel: grey and alpha, or red, green, blue and alpha
 * @returns {Promise<ImageBitmap>}
 */
async function decodePng(bytes, samples) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height, depth] = [view.getUint32(16), view.getUint32(20), bytes[24] / 8];
  const parts = pngChunks(bytes).filter(({ name }) => name === 'IDAT');
  const packed = new Blob(parts.map(({ data, end }) => bytes.slice(data, end)));
  const stream = packed.stream().pipeThrough(new DecompressionStream('deflate'));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const pixel = samples * depth;
  if (rows.length < height * (1 + width * pixel)) throw new Error('the data end too soon');
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
  let above = new Uint8Array(width * pixel);
  for (let y = 0; y < height; y++) {
    const start = y * (1 + width * pixel);
    const row = rows.subarray(start + 1, start + 1 + width * pixel);
    unfilter(row, above, rows[start], pixel);
    for (let x = 0; x < width; x++) {
      // Of 16 bits the upper 8 stay.
      for (let c = 0; c < 3; c++) pixels[4 * (y * width + x) + c] = row[x * pixel + (samples === 4 ? c * depth : 0)];
    }
    above = row;
  }
  return createImageBitmap(new ImageData(pixels, width, height), { colorSpaceConversion: 'none' });
}

/**
 * Undo the filter of a row of PNG, which stores differences from its neighbours.
 *
 * @param {Uint8Array} row
 * @param {Uint8Array} above the row before it
 * @param {number} filter
 * @param {number} pixel bytes of a pixel
 */
function unfilter(row, above, filter, pixel) {
  if (filter > 4) throw new Error('there is no such filter');
  if (filter === 0) return;
  for (let i = 0; i < row.length; i++) {
    const left = i < pixel ? 0 : row[i - pixel];
    const corner = i < pixel ? 0 : above[i - pixel];
    if (filter === 1) row[i] += left;
    else if (filter === 2) row[i] += above[i];
    else if (filter === 3) row[i] += (left + above[i]) >> 1;
    else row[i] += nearest(left, above[i], corner);
  }
}

/**
 * The Paeth predictor: of three neighbours, the one nearest to left + above - corner.
 *
 * @param {number} left
 * @param {number} above
 * @param {number} corner
 */
function nearest(left, above, corner) {
  const toLeft = Math.abs(above - corner);
  const toAbove = Math.abs(left - corner);
  const toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}
