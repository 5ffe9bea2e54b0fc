/** The mouse, a finger or a pen on the panels: cells to mark, regions to draw, the swipe's divider. */

/** @import { Stage } from './stage.js' */
/** @import { Point } from './places.js' */
/** @import { Place, Region, Side, View } from './scene.js' */

import { cellAt, rectangle } from './places.js';

/** @typedef {'cell' | 'rectangle' | 'lasso'} Tool */
/**
 * @typedef {{
 *   view: () => View, tool: () => Tool,
 *   hover: (place: Place | null) => void, pin: (place: Place) => void,
 *   draw: (region: Region | null) => void, divide: (divider: number) => void
 * }} Actions
 */

const NEAR = 14; // pixels from the divider at which it is taken
const LEAST_STEP = 3; // pixels between two corners of a lasso
const LEAST_REGION = 4; // pixels of a region's shorter side; below, a drag was a click

/**
 * @param {Stage} stage
 * @param {Actions} actions
 */
export function followPointer(stage, actions) {
  for (const side of /** @type {const} */ ([0, 1])) new Follower(stage, side, actions);
}

class Follower {
  /**
   * @param {Stage} stage
   * @param {Side} side
   * @param {Actions} actions
   */
  constructor(stage, side, actions) {
    this.stage = stage;
    this.side = side;
    this.actions = actions;
    /** @type {'divider' | 'region' | null} */
    this.drag = null;
    /** @type {Point[]} */
    this.trail = [];
    const canvas = stage.canvases[side];
    canvas.addEventListener('pointerdown', (event) => this.down(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', () => this.up());
    canvas.addEventListener('pointercancel', () => this.up());
    canvas.addEventListener('pointerleave', () => this.actions.hover(null));
    canvas.addEventListener('click', (event) => this.click(event));
  }

  /** @param {PointerEvent} event */
  down(event) {
    const { stage, side, actions } = this;
    if (event.button !== 0) return;
    if (stage.pair !== null && this.isNearDivider(event)) {
      this.drag = 'divider';
    } else if (actions.tool() !== 'cell') {
      const point = stage.pointAt(side, event, true);
      if (point === null) return;
      this.drag = 'region';
      this.trail = [point];
      actions.draw(null);
    } else return;
    stage.canvases[side].setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  move(event) {
    const { stage, side, actions } = this;
    if (this.drag === 'divider') return actions.divide(stage.shareAt(side, event));
    if (this.drag === 'region') return this.extend(event);
    stage.canvases[side].classList.toggle('dividing', this.isNearDivider(event));
    if (stage.pair === null || event.pointerType === 'touch' || actions.tool() !== 'cell') return;
    actions.hover(this.placeAt(event));
  }

  /** @param {PointerEvent} event */
  isNearDivider(event) {
    const { look, divider } = this.actions.view();
    const { width } = this.stage.canvases[this.side].getBoundingClientRect();
    return look === 'swipe' && Math.abs(this.stage.shareAt(this.side, event) - divider) * width <= NEAR;
  }

  up() {
    // A click follows, which belongs to the drag.
    setTimeout(() => (this.drag = null));
  }

  /** @param {MouseEvent} event */
  click(event) {
    if (this.drag !== null || this.actions.tool() !== 'cell') return;
    const place = this.placeAt(event);
    if (place !== null) this.actions.pin(place);
  }

  /** @param {PointerEvent} event */
  extend(event) {
    const { stage, side, actions } = this;
    const frame = stage.frame(side, 1);
    const point = stage.pointAt(side, event, true);
    if (frame === null || point === null) return;
    if (actions.tool() === 'rectangle') this.trail = [this.trail[0], point];
    else {
      const [last, next] = [this.trail[this.trail.length - 1], point].map((end) => frame.place(end));
      if (Math.hypot(next[0] - last[0], next[1] - last[1]) < LEAST_STEP) return;
      this.trail.push(point);
    }
    const xs = this.trail.map(([x]) => x);
    const ys = this.trail.map(([, y]) => y);
    const [left, top, right, bottom] = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    const isClick = (right - left) * frame.across < LEAST_REGION || (bottom - top) * frame.down < LEAST_REGION;
    const isRectangle = actions.tool() === 'rectangle';
    const polygon = isRectangle ? rectangle([left, top, right, bottom]) : this.trail.slice();
    actions.draw(isClick ? null : { side, polygon });
  }

  /** @param {PointerEvent | MouseEvent} event @returns {Place | null} */
  placeAt(event) {
    const { stage, side } = this;
    const point = stage.pointAt(side, event, false);
    const cell = point && stage.pair && cellAt(stage.pair.grids[side], point);
    return cell === null ? null : { side, cell };
  }
}
