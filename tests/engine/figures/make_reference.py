"""Draw the reference pictures anew: python tests/engine/figures/make_reference.py; then look at them."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
from boxes import text_as_boxes
from scenes import figures

from simmap.engine.types import Pixels

REFERENCE = Path(__file__).parent / "reference"
LEVELS = 8  # between the kept values of a channel, so that the files stay small


def drawn(folder: Path) -> dict[str, Pixels]:
    """Each kind of picture at half its size; ``folder`` holds the photos of a search meanwhile."""
    with text_as_boxes():
        pictures = {name: figure.picture() for name, figure in figures(folder).items()}
    return {
        name: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        for name, p in pictures.items()
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, picture in drawn(Path(folder)).items():
            coarse = np.minimum((picture.astype(int) + LEVELS // 2) // LEVELS * LEVELS, 255).astype(np.uint8)
            cv2.imwrite(str(REFERENCE / f"{name}.png"), coarse[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
