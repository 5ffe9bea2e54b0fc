/** A photo from the camera. */

import { find, makeCanvas } from './dom.js';

/**
 * Show what the camera sees until a photo is taken.
 *
 * @returns {Promise<File | null>} null where the dialog is closed without a photo
 * @throws {Error} there is no camera, or the page may not use it
 */
export async function takePhoto() {
  const stream = await openCamera();
  const dialog = find('#camera', HTMLDialogElement);
  const video = find('video', HTMLVideoElement, dialog);
  try {
    video.srcObject = stream;
    dialog.returnValue = '';
    dialog.showModal();
    // The dialog may be closed before the video plays.
    const closed = new Promise((resolve) => dialog.addEventListener('close', resolve, { once: true }));
    await video.play();
    await closed;
    if (dialog.returnValue !== 'take') return null;
    const [canvas, context] = makeCanvas(video.videoWidth, video.videoHeight);
    context.drawImage(video, 0, 0);
    /** @type {Blob | null} */
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
    return blob && new File([blob], 'camera.png', { type: blob.type });
  } finally {
    dialog.close();
    video.srcObject = null;
    for (const track of stream.getTracks()) track.stop();
  }
}

/** @returns {Promise<MediaStream>} */
async function openCamera() {
  if (navigator.mediaDevices === undefined) {
    throw new Error('Browsers give the camera to pages over HTTPS only; choose a photo instead.');
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: { facingMode: 'environment', width: { ideal: 1920 }, height: { ideal: 1080 } },
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'NotAllowedError') {
      throw new Error('The page may not use the camera; allow it in the browser, or choose a photo.');
    }
    throw new Error('No camera answers; choose a photo instead.');
  }
}
