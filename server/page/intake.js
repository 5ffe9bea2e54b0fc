/** Photos from outside: dropped, pasted, chosen. */

/** @import { Side } from './scene.js' */

import { find } from './dom.js';

/**
 * @typedef {{ take: (files: File[], side: Side | null) => void, refuse: (message: string, side: Side | null) => void }} Actions
 *   side: where the files are for; null where the page is to choose.
 */

/**
 * @param {[HTMLElement, HTMLElement]} panels
 * @param {Actions} actions
 */
export function followIntake(panels, actions) {
  /** @param {EventTarget | null} target @returns {Side | null} */
  const sideOf = (target) => {
    const side = panels.findIndex((panel) => target instanceof Node && panel.contains(target));
    return side < 0 ? null : /** @type {Side} */ (side);
  };
  /** @param {EventTarget | null} target */
  const light = (target) => panels.forEach((panel, at) => panel.classList.toggle('dropping', sideOf(target) === at));
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    light(event.target);
  });
  document.addEventListener('dragleave', (event) => {
    if (event.relatedTarget === null) light(null);
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    light(null);
    const files = Array.from(event.dataTransfer?.files ?? []);
    const side = sideOf(event.target);
    if (files.length) actions.take(files, side);
    else actions.refuse('What was dropped is no file; save the image and drop its file.', side);
  });
  document.addEventListener('paste', (event) => {
    const files = Array.from(event.clipboardData?.files ?? []);
    if (files.length) actions.take(files, sideOf(document.activeElement));
    else actions.refuse('The clipboard has no image; copy an image and paste again.', null);
  });
  panels.forEach((_, at) => {
    const side = /** @type {Side} */ (at);
    const input = find(`#file-${'ab'[at]}`, HTMLInputElement);
    input.addEventListener('change', () => {
      actions.take(Array.from(input.files ?? []), side);
      input.value = ''; // so that the same file can be chosen again
    });
    for (const button of document.querySelectorAll(`[data-choose="${'ab'[at]}"]`)) {
      button.addEventListener('click', () => input.click());
    }
  });
}
