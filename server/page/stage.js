/** The two panels: photos, heat and marks, at the size of the window. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Scene, Side, View } from './scene.js' */
/** @import { Corners, Point } from './places.js' */

import { contextOf, find } from './dom.js';
import { Frame, canvasOf, fitted } from './frame.js';
import { drawMarks, drawRegion } from './marks.js';
import { Raster } from './raster.js';

const MOST_PIXELS = 1_000_000; // of a panel, so that a repaint takes less than a frame
const LEAST_HEIGHT = 260; // of a panel in a low window
const SHARE_OF_WINDOW = 0.6; // of its height

/** @typedef {{ values: ArrayLike<number>, scale: number, opacity: number } | null} Painted */

export class Stage {
  constructor() {
    this.element = find('#stage', HTMLElement);
    this.marks = find('#marks', HTMLCanvasElement);
    /** @type {[HTMLElement, HTMLElement]} */
    this.panels = [find('#panel-a', HTMLElement), find('#panel-b', HTMLElement)];
    /** @type {[HTMLCanvasElement, HTMLCanvasElement]} */
    this.canvases = [find('#panel-a canvas', HTMLCanvasElement), find('#panel-b canvas', HTMLCanvasElement)];
    /** @type {[Photo | null, Photo | null]} */
    this.photos = [null, null];
    /** @type {Pair | null} */
    this.pair = null;
    /** @type {[Raster | null, Raster | null]} */
    this.rasters = [null, null];
    /** @type {[Painted, Painted]} */
    this.painted = [null, null];
    this.density = 1;
  }

  /**
   * @param {[Photo | null, Photo | null]} photos
   * @param {Pair | null} pair
   */
  show(photos, pair) {
    this.photos = photos;
    this.pair = pair;
    this.layOut();
  }

  /** Size panels and rasters for the window. */
  layOut() {
    this.density = Math.max(window.devicePixelRatio, 1);
    for (const side of /** @type {const} */ ([0, 1])) {
      const photo = this.photos[side];
      const canvas = this.canvases[side];
      this.rasters[side] = null;
      this.painted[side] = null;
      canvas.hidden = photo === null;
      // A window may have no width for a moment.
      if (photo === null || this.panels[side].clientWidth === 0) continue;
      const grid = this.pair?.grids[side] ?? null;
      const highest = Math.max(SHARE_OF_WINDOW * window.innerHeight, LEAST_HEIGHT);
      const [width, height] = fitted(canvasOf(photo, grid), this.panels[side].clientWidth, highest);
      const density = Math.min(this.density, Math.sqrt(MOST_PIXELS / (width * height)));
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
      this.rasters[side] = new Raster(photo, grid, canvas.width, canvas.height, density);
    }
    this.marks.width = Math.round(this.element.clientWidth * this.density);
    this.marks.height = Math.round(this.element.clientHeight * this.density);
  }

  /**
   * @param {Scene | null} scene null while there is no pair
   * @param {View} view
   */
  draw(scene, view) {
    this.element.classList.toggle('swiping', view.look === 'swipe');
    for (const side of /** @type {const} */ ([0, 1])) this.drawPanel(side, scene, view);
    const context = contextOf(this.marks);
    context.clearRect(0, 0, this.marks.width, this.marks.height);
    const { pair } = this;
    const frames = [this.frame(0, this.density), this.frame(1, this.density)];
    if (scene === null || pair === null) {
      const frame = view.region && frames[view.region.side];
      if (view.region && frame) drawRegion(context, view.region.polygon, frame, this.density);
      return;
    }
    if (frames[0] && frames[1]) drawMarks(context, pair, scene, view, [frames[0], frames[1]], this.density);
  }

  /**
   * @param {Side} side
   * @param {Scene | null} scene
   * @param {View} view
   */
  drawPanel(side, scene, view) {
    const raster = this.rasters[side];
    if (raster === null) return;
    const { width, height } = this.canvases[side];
    const context = contextOf(this.canvases[side]);
    const isHeated = scene !== null && view.look !== 'photo';
    if (isHeated) this.paint(raster, side, scene, view.opacity);
    context.drawImage(isHeated ? raster.heated : raster.plain, 0, 0);
    if (!isHeated || view.look !== 'swipe') return;
    const plain = Math.round(view.divider * width);
    if (plain > 0) context.drawImage(raster.plain, 0, 0, plain, height, 0, 0, plain, height);
  }

  /**
   * @param {Raster} raster
   * @param {Side} side
   * @param {Scene} scene
   * @param {number} opacity
   */
  paint(raster, side, scene, opacity) {
    const { cells, scale } = scene.heats[side];
    const before = this.painted[side];
    if (before?.values === cells.values && before.scale === scale && before.opacity === opacity) return;
    raster.paint(cells, scale, opacity);
    this.painted[side] = { values: cells.values, scale, opacity };
  }

  /**
   * Where a panel's photo lies on the stage.
   *
   * @param {Side} side
   * @param {number} density pixels to one of the screen
   * @returns {Frame | null}
   */
  frame(side, density) {
    const photo = this.photos[side];
    if (photo === null) return null;
    const stage = this.element.getBoundingClientRect();
    const { left, top, width, height } = this.canvases[side].getBoundingClientRect();
    const box = [left - stage.left, top - stage.top, width, height].map((value) => value * density);
    return new Frame(canvasOf(photo, this.pair?.grids[side] ?? null), box[0], box[1], box[2], box[3]);
  }

  /**
   * The point of a photo under the pointer; beside the photo, the nearest one if `isClamped`.
   *
   * @param {Side} side
   * @param {PointerEvent | MouseEvent} event
   * @param {boolean} isClamped
   * @returns {Point | null}
   */
  pointAt(side, event, isClamped) {
    const photo = this.photos[side];
    const frame = this.frame(side, 1);
    if (photo === null || frame === null) return null;
    const stage = this.element.getBoundingClientRect();
    const [x, y] = frame.photoPoint([event.clientX - stage.left, event.clientY - stage.top]);
    if (!isClamped) return [x, y];
    return [Math.min(Math.max(x, 0), photo.width), Math.min(Math.max(y, 0), photo.height)];
  }

  /**
   * The share of a panel's width at which the pointer is.
   *
   * @param {Side} side
   * @param {PointerEvent} event
   */
  shareAt(side, event) {
    const { left, width } = this.canvases[side].getBoundingClientRect();
    return Math.min(Math.max((event.clientX - left) / width, 0), 1);
  }

  /** @param {Side} side @returns {Corners | null} what the panel shows, in photo pixels */
  shown(side) {
    const photo = this.photos[side];
    return photo && canvasOf(photo, this.pair?.grids[side] ?? null);
  }
}
