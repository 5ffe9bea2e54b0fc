"""What a search costs beside one matrix product: ``python tests/benchmarks/search.py [--full]``.

Fills an index with random unit vectors of the model's dimension in a temporary folder, and times
``Index.search`` against NumPy's product of the same queries with the same bytes in memory. The note says how
long the index takes to open, and what memory it then holds. 100,000 images; with ``--full`` 1,000,000 too.
"""

import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from common import Row, Settings, compare, main
from simmap.engine import Engine
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry

BATCH = 20_000
K = 10


def rows(options: Settings) -> Iterator[Row]:
    """One query, and a hundred at once."""
    for count in (100_000, 1_000_000) if options.full else (100_000,):
        yield from searches(count, options)


def searches(count: int, options: Settings) -> Iterator[Row]:
    """On an index of ``count`` images."""
    engine = Engine(options.model, device="cpu")
    rng = np.random.default_rng(0)
    vectors = np.empty((count, engine.contract.dimension), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index = Index.create(path, engine, folder)
        for start in range(0, count, BATCH):
            block = vectors[start : start + BATCH]
            rng.standard_normal(out=block, dtype=np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            index.upsert([entry(start + at) for at in range(len(block))], block)
        del index
        # In processes of their own, where no memory is left over from making the index.
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            opening, memory = zip(*pool.map(measure_opening, [path] * 3, chunksize=1), strict=True)
        note = f"opens in {1e3 * np.median(opening):.1f} ms, {np.median(memory) / 1e6:.1f} MB"
        index = Index(path)
        for asked in (1, 100):
            queries = rng.standard_normal((asked, engine.contract.dimension), np.float32)
            yield compare(
                f"search of {count:,}, {asked} at once / one matrix product",
                lambda q=queries: index.search(q, K),  # type: ignore[misc]
                lambda q=queries: q @ vectors.T,  # type: ignore[misc]
                "",
                options,
                note=note,
                turns=min(options.turns, 7) if options.full else None,
                wall=True,
            )


def measure_opening(path: Path) -> tuple[float, int]:
    """Seconds that an index takes to open, and bytes of memory that it then holds."""
    before, started = anonymous_memory(), time.perf_counter()
    index = Index(path)
    seconds = time.perf_counter() - started
    assert len(index) > 0
    return seconds, anonymous_memory() - before


def entry(number: int) -> Entry:
    """Of an image as a folder of classes has it."""
    label = f"class_{number % 1000:04d}"
    return Entry(f"{label}/image_{number:08d}.jpg", label, 480, 640, 100_000 + number, 10**18 + number)


def anonymous_memory() -> int:
    """Bytes of this process that no file backs (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(found.split()[1]) * 1024


if __name__ == "__main__":
    main(rows)
