/** Where a photo lies on a canvas. */

/** @import { Grid } from './types.js' */
/** @import { Corners, Point } from './places.js' */

const THINNEST = 40; // pixels of a panel's shorter side, so that a photo of 1 x 1000 pixels is a band, not a hair

/**
 * What a panel shows, in pixels of the photo: the photo and all that the network saw.
 *
 * @param {{ width: number, height: number }} photo
 * @param {Grid | null} grid
 * @returns {Corners}
 */
export function canvasOf({ width, height }, grid) {
  if (grid === null) return [0, 0, width, height];
  return [
    Math.min(0, grid.x),
    Math.min(0, grid.y),
    Math.max(width, grid.x + grid.width),
    Math.max(height, grid.y + grid.height),
  ];
}

/**
 * The largest size in the shape of a canvas that fits.
 *
 * @param {Corners} canvas
 * @param {number} width at most
 * @param {number} height at most
 * @returns {[number, number]} width, height
 */
export function fitted([left, top, right, bottom], width, height) {
  const scale = Math.min(width / (right - left), height / (bottom - top));
  return [
    Math.min(width, Math.max(Math.round(scale * (right - left)), THINNEST)),
    Math.min(height, Math.max(Math.round(scale * (bottom - top)), THINNEST)),
  ];
}

/** From photo pixels to pixels of a rectangle, and back. */
export class Frame {
  /**
   * @param {Corners} canvas what the rectangle shows, in photo pixels
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  constructor(canvas, x, y, width, height) {
    this.canvas = canvas;
    this.x = x;
    this.y = y;
    this.width = width;
    this.height = height;
    this.across = width / (canvas[2] - canvas[0]);
    this.down = height / (canvas[3] - canvas[1]);
  }

  /** @param {Point} point of the photo @returns {Point} */
  place([x, y]) {
    return [this.x + (x - this.canvas[0]) * this.across, this.y + (y - this.canvas[1]) * this.down];
  }

  /** @param {Point} point of the rectangle @returns {Point} */
  photoPoint([x, y]) {
    return [(x - this.x) / this.across + this.canvas[0], (y - this.y) / this.down + this.canvas[1]];
  }

  /**
   * A box of the photo in whole pixels, at least one, inside the rectangle.
   *
   * @param {Corners} box
   * @returns {Corners}
   */
  box([left, top, right, bottom]) {
    const [x0, y0] = this.place([left, top]).map(Math.round);
    const [x1, y1] = this.place([right, bottom]).map(Math.round);
    const startX = Math.min(Math.max(x0, this.x), this.x + this.width - 1);
    const startY = Math.min(Math.max(y0, this.y), this.y + this.height - 1);
    return [
      startX,
      startY,
      Math.min(Math.max(x1, startX + 1), this.x + this.width),
      Math.min(Math.max(y1, startY + 1), this.y + this.height),
    ];
  }
}
