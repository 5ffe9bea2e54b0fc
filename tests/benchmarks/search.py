"""What a search costs beside one matrix product: ``python tests/benchmarks/search.py [--rows N] [--json F]``.

Fills an index with random unit vectors of the shipped model's dimension in a temporary folder, and times
``Index.search`` against NumPy's product of the same queries with the same bytes in memory, in turns, so
that what else the machine does hits both. Also how long the index takes to open, and its memory.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from simmap.engine import Engine
from simmap.engine.files import write_bytes
from simmap.engine.index import Entry, Index

BATCH = 20_000
K = 10


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="images in the index")
    parser.add_argument("--turns", type=int, default=15, help="measurements of each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    arguments = parser.parse_args()
    engine = Engine(device="cpu")
    rng = np.random.default_rng(0)
    vectors = np.empty((arguments.rows, engine.contract.dimension), np.float32)
    figures: dict[str, object] = {"rows": arguments.rows, "dimension": engine.contract.dimension, "k": K}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "index"
        index = Index.create(path, engine, folder)
        for start in range(0, arguments.rows, BATCH):
            block = vectors[start : start + BATCH]
            rng.standard_normal(out=block, dtype=np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            index.upsert([entry(start + at) for at in range(len(block))], block)
        del index
        # In processes of their own, where no memory is left over from making the index.
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            opening, memory = zip(*pool.map(measure_opening, [path] * 3, chunksize=1), strict=True)
        figures["open_seconds"] = float(np.median(opening))
        figures["open_seconds_per_100k"] = figures["open_seconds"] / arguments.rows * 100_000
        figures["memory_bytes_per_image"] = float(np.median(memory)) / arguments.rows
        index = Index(path)
        for count in (1, 100):
            queries = rng.standard_normal((count, engine.contract.dimension), np.float32)
            search, product = take_turns(
                lambda q=queries: index.search(q, K), lambda q=queries: q @ vectors.T, arguments.turns
            )
            figures[f"search_{count}"] = quartiles(search)
            figures[f"product_{count}"] = quartiles(product)
            figures[f"ratio_{count}"] = quartiles(search / product)
    print(f"images                     {arguments.rows} x {engine.contract.dimension}")
    print(f"opening                    {figures['open_seconds']:.2f} s")
    print(f"memory beside the vectors  {figures['memory_bytes_per_image']:.0f} bytes an image")
    print("seconds: median (quartiles)")
    for count in (1, 100):
        for name in ("search", "product", "ratio"):
            low, middle, high = figures[f"{name}_{count}"]
            print(f"{name}, {count:3} queries{'':{11 - len(name)}}{middle:.4f} ({low:.4f}, {high:.4f})")
    if arguments.json:
        write_bytes(arguments.json, json.dumps(figures, indent=1).encode() + b"\n", force=True)


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


def take_turns(first: Callable[[], object], second: Callable[[], object], turns: int) -> list[np.ndarray]:
    """Seconds of each call of two functions that are called in turns; a first turn does not count."""
    seconds = np.empty((turns + 1, 2))
    for turn in seconds:
        for at, call in enumerate((first, second)):
            started = time.perf_counter()
            call()
            turn[at] = time.perf_counter() - started
    return list(seconds[1:].T)


def quartiles(values: np.ndarray) -> list[float]:
    """The first, the median and the third."""
    return np.percentile(values, [25, 50, 75]).tolist()


def anonymous_memory() -> int:
    """Bytes of this process that no file backs (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(found.split()[1]) * 1024


if __name__ == "__main__":
    main()
