"""What other ways to decode JPEG files save: ``python tests/benchmarks/decoding.py [--images FOLDER]``.

Loads files with the extra ``turbo`` and by OpenCV, and embeds them with and without ``fast_decode``. Of the
photos that ship none is large enough to be reduced, so without ``--images`` they are enlarged to 12
megapixels first, which flatters the cosines.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from common import SAMPLES, Row, Settings, compare, main, photos, skipped
from simmap.engine import Engine
from simmap.engine.decompose import unit
from simmap.engine.images import decode
from simmap.engine.options import Options

MOST = 24  # files
ENLARGED = (4000, 3000)


def rows(options: Settings) -> Iterator[Row]:
    """The extra ``turbo``, and ``fast_decode``."""
    with tempfile.TemporaryDirectory() as folder:
        if options.images == Settings.images:
            options = replace(options, images=Path(folder))
            for path in sorted(SAMPLES.glob("*.jpg")):
                large = cv2.resize(cv2.imread(str(path)), ENLARGED, interpolation=cv2.INTER_CUBIC)
                cv2.imwrite(str(Path(folder) / path.name), large)
        files = [path for path in photos(options) if path.suffix.lower() in (".jpg", ".jpeg")][:MOST]
        if not files:
            yield skipped("decoding", "no JPEG files")
            return
        yield turbo(files, options)
        yield reduced(files, options)


def turbo(files: list[Path], options: Settings) -> Row:
    """Full decoding by the extra and by OpenCV alone."""
    name = "load JPEG files with the extra turbo / by OpenCV"
    if decode.simplejpeg is None:
        return skipped(name, "simplejpeg not installed")
    contents = [path.read_bytes() for path in files]
    sizes = [decode.load(content).pixels.shape[:2] for content in contents]
    megapixels = np.median([height * width for height, width in sizes]) / 1e6

    def load_all() -> None:
        for content in contents:
            decode.load(content)

    def by_opencv() -> None:
        module, decode.simplejpeg = decode.simplejpeg, None
        try:
            load_all()
        finally:
            decode.simplejpeg = module

    note = f"{len(files)} files, median {megapixels:.1f} megapixels"
    return compare(name, load_all, by_opencv, "< 1", options, note=note, turns=min(options.turns, 5))


def reduced(files: list[Path], options: Settings) -> Row:
    """The time of embeddings from both, and how far they differ."""
    full, fast = (
        Engine(options.model, device="cpu", options=Options(threads=1, fast_decode=chosen))
        for chosen in (False, True)
    )
    a, b = (unit(np.array([v.embedding for v in engine.vectors(files)])) for engine in (full, fast))
    cosines = (a * b).sum(axis=1)
    return compare(
        "embed with fast_decode / with full decoding",
        lambda: list(fast.vectors(files)),
        lambda: list(full.vectors(files)),
        "",
        options,
        note=f"{len(files)} files, cosine of both median {np.median(cosines):.4f}, least {cosines.min():.4f}",
        turns=min(options.turns, 5),
    )


if __name__ == "__main__":
    main(rows)
