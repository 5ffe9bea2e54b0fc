"""The time of decoding: ``python tests/benchmarks/decoding.py [--images FOLDER]``.

Loads photos as JPEG and PNG, as large as a camera's and as small as the web's, and holds it against OpenCV,
which gives the same pixels; then embeds them with and without ``fast_decode``. Of the photos that ship none
is large enough to be reduced, so they are resized first, which flatters the cosines of ``fast_decode``;
with ``--images`` that row takes the folder's JPEG files as they are.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from common import SAMPLES, Row, Settings, compare, main, photos, skipped
from simmap.engine import Engine
from simmap.engine.decompose import unit
from simmap.engine.images.decode import load
from simmap.engine.options import Options

MOST = 24  # files
LARGE, SMALL = (4000, 3000), (400, 300)


def rows(options: Settings) -> Iterator[Row]:
    """Decoding by size and format, and ``fast_decode``."""
    for name, size, suffix, expected in (
        ("12 MP JPEG", LARGE, ".jpg", "< 1"),
        ("0.1 MP JPEG", SMALL, ".jpg", "< 1"),
        ("12 MP PNG", LARGE, ".png", ""),
        ("0.1 MP PNG", SMALL, ".png", ""),
    ):
        contents = [encoded(path, size, suffix) for path in sorted(SAMPLES.glob("*.jpg"))]
        yield compare(
            f"load a {name} / by OpenCV",
            lambda contents=contents: [load(content) for content in contents],
            lambda contents=contents: [by_opencv(content) for content in contents],
            expected,
            options,
            note=f"{len(contents)} files",
            turns=min(options.turns, 5),
        )
    with tempfile.TemporaryDirectory() as folder:
        if options.images == Settings.images:
            files = [Path(folder) / path.name for path in sorted(SAMPLES.glob("*.jpg"))]
            for path in files:
                path.write_bytes(encoded(SAMPLES / path.name, LARGE, ".jpg"))
        else:
            files = [path for path in photos(options) if path.suffix.lower() in (".jpg", ".jpeg")][:MOST]
        yield reduced(files, options) if files else skipped("fast_decode", "no JPEG files")


def encoded(path: Path, size: tuple[int, int], suffix: str) -> bytes:
    """A photo of (width, height) ``size``, with the grain of a sensor, which sets the time of PNG."""
    pixels = cv2.resize(cv2.imread(str(path)), size, interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).integers(-2, 3, pixels.shape)
    return cv2.imencode(suffix, np.clip(pixels + grain, 0, 255).astype(np.uint8))[1].tobytes()


def by_opencv(content: bytes) -> None:
    """An encoded image in RGB."""
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


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
