"""What reduced decoding saves and costs: ``python tests/benchmarks/decoding.py [--images FOLDER]``.

Embeds JPEG files with and without ``fast_decode``. Of the photos that ship none is large enough to be
reduced, so without ``--images`` they are enlarged to 12 megapixels first, which flatters the cosines.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from common import SAMPLES, Options, Row, compare, main, photos, skipped
from simmap.engine import Engine
from simmap.engine.decompose import unit

MOST = 24  # files
ENLARGED = (4000, 3000)


def rows(options: Options) -> Iterator[Row]:
    """One row: the time of both, and how far the embeddings differ."""
    with tempfile.TemporaryDirectory() as folder:
        if options.images == Options.images:
            options = replace(options, images=Path(folder))
            for path in sorted(SAMPLES.glob("*.jpg")):
                large = cv2.resize(cv2.imread(str(path)), ENLARGED, interpolation=cv2.INTER_CUBIC)
                cv2.imwrite(str(Path(folder) / path.name), large)
        yield row(options)


def row(options: Options) -> Row:
    """Of the JPEG files of a folder."""
    name = "embed with fast_decode / with full decoding"
    files = [path for path in photos(options) if path.suffix.lower() in (".jpg", ".jpeg")][:MOST]
    if not files:
        return skipped(name, "no JPEG files")
    full, fast = (
        Engine(options.model, device="cpu", threads=1, fast_decode=chosen) for chosen in (False, True)
    )
    a, b = (unit(np.array([v.embedding for v in engine.vectors(files)])) for engine in (full, fast))
    cosines = (a * b).sum(axis=1)
    return compare(
        name,
        lambda: list(fast.vectors(files)),
        lambda: list(full.vectors(files)),
        "",
        options,
        note=f"{len(files)} files, cosine of both median {np.median(cosines):.4f}, least {cosines.min():.4f}",
        turns=min(options.turns, 5),
    )


if __name__ == "__main__":
    main(rows)
