/** The form that sets the view. */

/** @import { Look, Quantity, View } from './scene.js' */
/** @import { Tool } from './pointer.js' */

import { find } from './dom.js';

/** @typedef {{ change: (patch: Partial<View>) => void, retool: (tool: Tool) => void }} Actions */

export class Controls {
  /** @param {Actions} actions */
  constructor(actions) {
    this.form = find('#controls', HTMLFormElement);
    this.opacity = find('[name="opacity"]', HTMLInputElement, this.form);
    this.divider = find('[name="divider"]', HTMLInputElement, this.form);
    this.contours = find('[name="contours"]', HTMLInputElement, this.form);
    this.form.addEventListener('submit', (event) => event.preventDefault());
    this.form.addEventListener('input', ({ target }) => {
      if (!(target instanceof HTMLInputElement)) return;
      const { name, value } = target;
      if (name === 'look') actions.change({ look: /** @type {Look} */ (value) });
      else if (name === 'quantity') actions.change({ quantity: /** @type {Quantity} */ (value) });
      else if (name === 'tool') actions.retool(/** @type {Tool} */ (value));
      else if (name === 'contours') actions.change({ contours: target.checked });
      else if (name === 'opacity') actions.change({ opacity: Number(value) / 100 });
      else if (name === 'divider') actions.change({ divider: Number(value) / 100 });
    });
  }

  /**
   * Show the view.
   *
   * @param {View} view
   */
  set({ look, quantity, contours, opacity, divider }) {
    find(`[name="look"][value="${look}"]`, HTMLInputElement, this.form).checked = true;
    find(`[name="quantity"][value="${quantity}"]`, HTMLInputElement, this.form).checked = true;
    this.contours.checked = contours;
    this.contours.disabled = quantity === 'influence';
    this.opacity.value = String(Math.round(100 * opacity));
    this.divider.value = String(Math.round(100 * divider));
    find('#divider', HTMLElement, this.form).hidden = look !== 'swipe';
  }
}
