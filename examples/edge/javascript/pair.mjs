// The score of two photos and where it comes from, by onnxruntime-web (WebAssembly) in Node.
//
//   npm install
//   node pair.mjs pair.onnx a.ppm b.ppm
//
// In a browser, the pixels come from a canvas: getImageData() gives RGBA, so leave every fourth byte out.

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

/**
 * A binary PPM file with 8 bits a channel, as uint8 (1, height, width, 3).
 * @param {string} path
 */
async function readPpm(path) {
  const data = await readFile(path);
  const header = /^P6(?:\s+|#.*\n)+(\d+)(?:\s+|#.*\n)+(\d+)(?:\s+|#.*\n)+255\s/.exec(data.toString("latin1", 0, 1000));
  if (header === null) throw new Error(`${path}: is not a binary PPM file with 8 bits a channel`);
  const [width, height] = [Number(header[1]), Number(header[2])];
  const pixels = new Uint8Array(data.subarray(header[0].length, header[0].length + height * width * 3));
  if (pixels.length < height * width * 3) throw new Error(`${path}: ends too early`);
  return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
}

/**
 * @param {string} name
 * @param {ort.Tensor} map (1, H, W)
 */
function printMap(name, map) {
  const [, height, width] = map.dims;
  const values = Array.from(/** @type {Float32Array} */ (map.data), (value) => value.toFixed(6));
  console.log(`${name} ${height} x ${width}`);
  for (let y = 0; y < height; y++) console.log(values.slice(y * width, (y + 1) * width).join(" "));
}

if (process.argv.length !== 5) {
  console.error("usage: node pair.mjs pair.onnx a.ppm b.ppm");
  process.exit(2);
}
try {
  ort.env.wasm.numThreads = 1;
  const [model, a, b] = process.argv.slice(2);
  const session = await ort.InferenceSession.create(await readFile(model));
  const results = await session.run({ a: await readPpm(a), b: await readPpm(b) });
  for (const name of ["score", "residual_a", "residual_b"]) {
    console.log(`${name} ${Number(results[name].data[0]).toFixed(6)}`);
  }
  for (const name of ["map_a", "map_b"]) printMap(name, results[name]);
} catch (error) {
  console.error(`pair: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}
