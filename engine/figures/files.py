"""Pictures to files."""

from pathlib import Path

import cv2

from ..errors import OutputError
from ..files import write_bytes
from ..types import Pixels

FORMATS = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
}


def write_picture(path: str | Path, pixels: Pixels, *, force: bool) -> None:
    """Write uint8 RGB (h, w, 3) as PNG, JPEG or WebP, by the suffix and atomically.

    Raises:
        OutputError: another suffix, a file that exists without ``force``, a picture too large for the
            format, or a file that cannot be written.
    """
    check_format(path)
    suffix = Path(path).suffix.lower()
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), FORMATS[suffix])
    except cv2.error:  # some releases of OpenCV raise, others return false
        done = False
    if not done:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise OutputError(
            f"{path}: a picture of {size} pixels is too large for {suffix}; end the name with .png"
        )
    write_bytes(path, data.tobytes(), force=force)


def check_format(path: str | Path) -> None:
    """Refuse the name of a picture in a format that is not written, before any work is done for it.

    Raises:
        OutputError: the suffix is not one of ``FORMATS``.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: pictures are written as {', '.join(FORMATS)}; end the name with one")
