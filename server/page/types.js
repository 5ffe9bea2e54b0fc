/**
 * The shapes of data that the page's modules give one another. Rows and columns count from 0.
 *
 * @typedef {{ rows: number, columns: number, x: number, y: number, width: number, height: number }} Grid
 *   The places of one photo: the network's input covers the rectangle (x, y, width, height) of the photo's
 *   own pixels, EXIF orientation applied, and rows x columns cells divide it evenly. It reaches beyond the
 *   photo for a letterbox and is smaller than it for a crop.
 *
 * @typedef {{
 *   name: string, fingerprint: string, pooling: string, head: string, dimension: number,
 *   device?: 'WebAssembly' | 'WebGPU', warnings?: string[]
 * }} Model
 *   device: what runs the network, in this browser.
 *   warnings: sentences for the user, such as that this browser changes the pixels that a page reads.
 *
 * @typedef {{ name: string, blob: Blob, width: number, height: number, bitmap: ImageBitmap }} Photo
 *   A decoded photo; width, height and bitmap have the EXIF orientation applied.
 *
 * @typedef {{
 *   score: number,
 *   residuals: [number, number],
 *   maps: [Float32Array, Float32Array],
 *   influence: [Float32Array, Float32Array],
 *   points: Float32Array,
 *   grids: [Grid, Grid],
 *   model: Model
 * }} Pair
 *   maps: what each place adds to the score, row by row; each sums to the score less its residual.
 *   influence: map - score * self map, how the score changes with the weight of each place.
 *   points: what place a of the first photo and place b of the second add together, at a * (places of the
 *   second) + b.
 *
 * @typedef {(done: number, total: number) => void} OnProgress
 *   Bytes loaded so far and in all; a total of 0 is unknown.
 *
 * @typedef {{
 *   open(onProgress: OnProgress): Promise<Model | null>,
 *   compare(photos: [Photo, Photo], signal?: AbortSignal): Promise<Pair>,
 *   database?: Database
 * }} Backend
 *   open gives null where the model is known with the first pair.
 *   compare rejects with the signal's reason where it is aborted, and with a PhotoError, whose `photo` is 0
 *   or 1, where one photo is at fault.
 *
 *   database: the images that can be searched, if there are any.
 *
 * @typedef {{
 *   id: string, label: string | null, score: number, region_score: number | null,
 *   map: number[][] | null, grid: Grid | null, image: { width: number, height: number } | null
 * }} Hit
 *   score: the cosine with the whole query; region_score: the part of it inside the region, which ranks.
 *   map, grid, image: what each place adds, and the size of the image; null where its file is gone.
 *
 * @typedef {{
 *   search(photo: Photo, polygon: [number, number][] | null, signal: AbortSignal): Promise<Hit[]>,
 *   thumbnail(id: string, signal: AbortSignal): Promise<ImageBitmap>,
 *   file(id: string): Promise<File>
 * }} Database
 *   search: the images most similar to a photo or to a region of it, best first. All reject with one sentence.
 *
 * @typedef {{ path: string, bytes: number }} FileSize
 *
 * @typedef {{ script: string, loader: string, wasm: FileSize }} Runtime a build of onnxruntime-web
 *
 * @typedef {{
 *   backend: 'local', model: FileSize, contract: string, runtime: Runtime, webgpu?: Runtime, examples: string[]
 * }} LocalConfig
 *   model: the ONNX file; contract: its contract as JSON; webgpu: the build for browsers with a GPU, if the site
 *   has it.
 *
 * @typedef {{ backend: 'remote', examples: string[], index: { results: number } | null }} RemoteConfig
 *   index: how many images a search gives; null where the server has no index.
 *
 * @typedef {LocalConfig | RemoteConfig} Config
 *   config.json beside index.html; paths are relative to the page. examples: none or two photos.
 */

export {};
