// Runs a pair graph in onnxruntime-web: node run.mjs MODULE GRAPH FOLDER SHAPES
// FOLDER holds the inputs as raw bytes, by name, and gets the outputs; their shapes are printed as JSON.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [module, graph, folder, shapes] = process.argv.slice(2);
const ort = await import(pathToFileURL(module).href);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(graph));
const feed = {};
for (const [name, shape] of Object.entries(JSON.parse(shapes))) {
  feed[name] = new ort.Tensor("uint8", new Uint8Array(await readFile(join(folder, name))), shape);
}
const results = await session.run(feed);
const sizes = {};
for (const [name, value] of Object.entries(results)) {
  await writeFile(join(folder, name), value.data);
  sizes[name] = value.dims;
}
console.log(JSON.stringify(sizes));
