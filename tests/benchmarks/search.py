"""What a search costs beside one matrix product: ``python tests/benchmarks/search.py [--full]``.

Fills an index with vectors like those of photos in a temporary folder, and times ``Index.search`` against
NumPy's product of the same queries with the same bytes in memory, and against a read of these bytes by all
CPUs: a query at .8 of the memory's bandwidth is 1.25, a hundred at .9 of the product's speed are 1.11.
Opening is timed in new processes, beside a fifth of a second. 100,000 images; with ``--full`` 1,000,000 too,
which need 11 GB of memory and 6 GB of disk.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from alike import Floats, embeddings, like
from common import Row, Settings, compare, main, quartiles, skipped
from simmap.engine import Engine
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry
from simmap.engine.runtime.cpus import usable_cpus

BATCH = 20_000
K = 10
OPENING = 0.2  # seconds that opening may take
NEEDED = 2.1  # times the vectors' bytes, of memory: as an array and in the file's pages


def rows(options: Settings) -> Iterator[Row]:
    """Opening, one query, and a hundred at once."""
    for count in (100_000, 1_000_000) if options.full else (100_000,):
        yield from searches(count, options)


def searches(count: int, options: Settings) -> Iterator[Row]:
    """On an index of ``count`` images."""
    engine = Engine(options.model, device="cpu")
    size = 4 * count * engine.contract.dimension
    with tempfile.TemporaryDirectory() as folder:
        if why := lacking(size, folder):
            yield skipped(f"search of {count:,}", why)
            return
        rng = np.random.default_rng(0)
        crops, queries, _ = embeddings(engine, options, rng)
        vectors = like(crops, count, rng)
        path = Path(folder) / "index"
        index = Index.create(path, engine, folder)
        for start in range(0, count, BATCH):
            block = vectors[start : start + BATCH]
            index.upsert([entry(start + at) for at in range(len(block))], block)
        del index
        # In processes of their own, where no memory is left over from making the index.
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            opening, memory = zip(*pool.map(measure_opening, [path] * 5, chunksize=1), strict=True)
        note = f"opens in {1e3 * np.median(opening):.1f} ms, {np.median(memory) / 1e6:.1f} MB"
        ratios = quartiles(np.array(opening) / OPENING)
        yield Row(f"opening {count:,} vectors / {OPENING} s", *ratios, "<= 1", note)
        index = Index(path)

        def row(asked: int, name: str, base: Callable[[], object], expected: str) -> Row:
            return compare(
                f"search of {count:,}, {asked} at once / {name}",
                lambda: index.search(queries[:asked], K),
                base,
                expected,
                options,
                note=f"{size / 1e9:.2f} GB",
                turns=min(options.turns, 7) if options.full else None,
                wall=True,
            )

        with reader(vectors) as read:
            yield row(1, "one read", read, "<= 1.25")
        for asked, expected in ((1, ""), (100, "<= 1.11")):
            yield row(asked, "one matrix product", lambda q=queries[:asked]: q @ vectors.T, expected)  # type: ignore[misc]


def lacking(size: int, folder: str) -> str:
    """What is too small for vectors of ``size`` bytes; nothing where there is room for them (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (memory,) = (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    for name, free, needed in (
        ("memory", memory, NEEDED * size),
        (f"disk at {folder}", shutil.disk_usage(folder).free, 1.2 * size),
    ):
        if free < needed:
            return f"needs {needed / 1e9:.0f} GB of {name}, {free / 1e9:.0f} GB are free"
    return ""


@contextmanager
def reader(vectors: Floats) -> Iterator[Callable[[], object]]:
    """A function that reads all bytes once, on all CPUs: the largest integer among them."""
    parts = np.array_split(vectors.view(np.int32), usable_cpus())
    with ThreadPoolExecutor(len(parts)) as threads:
        yield lambda: max(threads.map(np.max, parts))


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
