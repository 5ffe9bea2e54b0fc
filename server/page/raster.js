/** One photo at the size that it is shown, plain and under its heat. */

/** @import { Grid, Photo } from './types.js' */
/** @import { Cells } from './heat.js' */

import { makeCanvas } from './dom.js';
import { Frame, canvasOf } from './frame.js';
import { greys, paintHeat } from './heat.js';

const PADDING = 'rgb(205 205 208)';
const DIM = 'rgb(0 0 0 / 60%)'; // over what the network did not see
const LIGHT = 'rgb(255 255 255)';
const DARK = 'rgb(25 25 28)';

export class Raster {
  /**
   * @param {Photo} photo
   * @param {Grid | null} grid null while there is no map
   * @param {number} width pixels
   * @param {number} height pixels
   * @param {number} density pixels to one of the screen
   */
  constructor(photo, grid, width, height, density) {
    this.density = density;
    this.frame = new Frame(canvasOf(photo, grid), 0, 0, width, height);
    const [plain, context] = makeCanvas(width, height);
    const [left, top, right, bottom] = this.frame.box([0, 0, photo.width, photo.height]);
    context.fillStyle = PADDING;
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = 'high';
    context.drawImage(photo.bitmap, left, top, right - left, bottom - top);
    this.plain = plain;
    this.photoBox = /** @type {const} */ ([left, top, right - left, bottom - top]);
    const [heated, heatContext] = makeCanvas(width, height);
    this.heated = heated;
    this.heatContext = heatContext;
    if (grid !== null) {
      const [x0, y0, x1, y1] = this.frame.box([grid.x, grid.y, grid.x + grid.width, grid.y + grid.height]);
      this.fieldBox = /** @type {const} */ ([x0, y0, x1 - x0, y1 - y0]);
      this.field = context.getImageData(...this.fieldBox);
      this.ground = greys(this.field);
    }
  }

  /**
   * Paint a map into `heated`.
   *
   * @param {Cells} cells
   * @param {number} scale
   * @param {number} opacity
   */
  paint(cells, scale, opacity) {
    const { heatContext: context, frame, field, ground, fieldBox, photoBox } = this;
    if (field === undefined || ground === undefined || fieldBox === undefined) return;
    paintHeat(field, ground, cells, scale, opacity, this.density);
    const isWhole = fieldBox[2] === frame.width && fieldBox[3] === frame.height;
    if (!isWhole) {
      context.drawImage(this.plain, 0, 0);
      context.fillStyle = DIM;
      context.fillRect(0, 0, frame.width, frame.height);
    }
    context.putImageData(field, fieldBox[0], fieldBox[1]);
    if (!isWhole) outline(context, fieldBox);
    if (photoBox[2] !== frame.width || photoBox[3] !== frame.height) outline(context, photoBox);
  }
}

/**
 * A light frame along a rectangle with a dark one inside it.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {readonly [number, number, number, number]} box x, y, width, height
 */
function outline(context, [x, y, width, height]) {
  context.lineWidth = 1;
  context.strokeStyle = LIGHT;
  context.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
  if (width < 4 || height < 4) return;
  context.strokeStyle = DARK;
  context.strokeRect(x + 1.5, y + 1.5, width - 3, height - 3);
}
