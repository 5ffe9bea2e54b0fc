"""How time and memory grow with the work: ``python tests/benchmarks/growth.py [--plot FILE]``.

Images in a stream through ``Engine.embed``, places of a pair's maps, vectors in an index that is searched,
and images of a class. Each point is a process of its own, so that its peak memory is its own, and the points
take turns. A row of the table is the CPU time of one unit (an image, a place, a vector) at the largest size
over that at the smallest: 1 where time grows in proportion, less while a fixed cost is shared out among more.
The peak counts what is mapped from the index's files, which the system can take back.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import cycle, islice
from math import ceil, log2
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from common import PHOTOS, Row, Settings, main, quartiles
from simmap.engine import Engine, class_maps, decompose
from simmap.engine.files import write_bytes
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry
from simmap.engine.options import Options

# What grows, and to which sizes.
SIZES = {
    "images embedded": (4, 8, 16, 32, 64),
    "places of a pair's maps": (7**2, 14**2, 28**2, 56**2),
    "vectors searched": (1_000, 4_000, 16_000, 64_000),
    "images of a class": (2, 4, 8, 16, 32),
}
TURNS = 3
CHANNELS = 1280  # of the maps
BATCH = 4_000  # vectors that are added to an index at a time
LEAST = 0.1  # seconds over which a point is measured


class Point(NamedTuple):
    """What one size cost: CPU seconds (quartiles over the turns) and peak memory in bytes."""

    size: int
    seconds: tuple[float, float, float]
    peak: int


def rows(options: Settings) -> Iterator[Row]:
    """Of the table; the plot goes to ``options.plot``."""
    points: dict[str, list[Point]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_indexes(Path(folder))
        for what, sizes in SIZES.items():
            runs = np.array([[measure(what, size, folder) for size in sizes] for _ in range(TURNS)])
            seconds, peaks = runs[..., 0], runs[..., 1].max(axis=0)
            points[what] = [
                Point(size, quartiles(seconds[:, at]), int(peaks[at])) for at, size in enumerate(sizes)
            ]
            ratio = quartiles(seconds[:, -1] / sizes[-1] / (seconds[:, 0] / sizes[0]))
            told = "; ".join(f"{p.size}: {p.seconds[1]:.3g} s, {p.peak >> 20} MiB" for p in points[what])
            yield Row(f"time of one of {sizes[-1]} / of {sizes[0]} {what}", *ratio, note=told)
    if options.plot:
        plot(points, options.plot)


def measure(what: str, size: int, folder: str) -> tuple[float, float]:
    """CPU seconds and peak bytes of one point, in a process of its own."""
    code = "import growth, sys; growth.work(sys.argv[1], int(sys.argv[2]), sys.argv[3])"
    done = subprocess.run(
        [sys.executable, "-c", code, what, str(size), folder],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def work(what: str, size: int, folder: str) -> None:
    """Do the work of one point again and again; print the CPU seconds of one time and the peak memory."""
    with threadpool_limits(1):
        call = task(what, size, Path(folder))
        call()
        times, started = 0, time.process_time()
        while (elapsed := time.process_time() - started) < LEAST:
            call()
            times += 1
    # Not ru_maxrss, which counts the parent's memory too: a child starts as a copy of it.
    (peak,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    print(json.dumps([elapsed / times, int(peak.split()[1]) * 1024]))


def task(what: str, size: int, folder: Path) -> Callable[[], object]:
    """The work of one point."""
    rng = np.random.default_rng(0)
    if what == "places of a pair's maps":
        side = round(size**0.5)
        alphas = rng.random((2, CHANNELS, side, side), np.float32)
        embeddings = [decompose.pool(alpha, "avg") for alpha in alphas]
        return lambda: [
            decompose.similarity_map(decompose.alpha_hat(alphas[i], "avg"), embeddings[i], embeddings[1 - i])
            for i in (0, 1)
        ]
    if what == "vectors searched":
        index = Index(folder / str(size))
        query = rng.standard_normal((1, index.dimension), np.float32)
        return lambda: index.search(query, 10)
    engine = Engine(device="cpu", options=Options(threads=1, cache=False))
    photos = list(islice(cycle(sorted(PHOTOS.glob("*.jpg"))), size))
    if what == "images of a class":
        return lambda: class_maps(engine, photos)
    return lambda: sum(1 for _ in engine.embed(photos))


def make_indexes(folder: Path) -> None:
    """An index of random unit vectors for each size, named by it."""
    engine = Engine(device="cpu", options=Options(threads=1, cache=False))
    rng = np.random.default_rng(0)
    for size in SIZES["vectors searched"]:
        index = Index.create(folder / str(size), engine, folder)
        for start in range(0, size, BATCH):
            count = min(BATCH, size - start)
            vectors = rng.standard_normal((count, index.dimension), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            index.upsert([Entry(f"{start + i}.jpg", None, 480, 640, 1, 1) for i in range(count)], vectors)


def plot(points: dict[str, list[Point]], path: Path) -> None:
    """Time above, memory below, one column for each kind of work; PNG, SVG or PDF by the suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(points), 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, len(points), squeeze=False, sharex="col", sharey="row")
    for (what, found), time_axes, memory_axes in zip(points.items(), above, below, strict=True):
        sizes = np.array([point.size for point in found])
        low, middle, high = np.transpose([point.seconds for point in found])
        time_axes.fill_between(sizes, low, high, alpha=0.3)
        time_axes.plot(sizes, middle, "o-", label="median and quartiles")
        time_axes.plot(sizes, middle[-1] * sizes / sizes[-1], ":", color="grey", label="in proportion")
        memory_axes.plot(sizes, [point.peak / 2**20 for point in found], "o-")
        memory_axes.set_xlabel(what)
        for axes in (time_axes, memory_axes):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    above[0].set_ylabel("CPU seconds")
    above[0].legend()
    most = max(point.peak for found in points.values() for point in found) / 2**20
    ticks = [2**power for power in range(4, ceil(log2(most)) + 1)]
    below[0].set_yticks(ticks, map(str, ticks))
    below[0].set_ylim(ticks[0], ticks[-1])
    below[0].set_ylabel("peak memory, MiB")
    picture = BytesIO()
    figure.savefig(picture, format=path.suffix.lstrip(".") or "png", dpi=120)
    write_bytes(path, picture.getvalue(), force=True)


if __name__ == "__main__":
    main(rows)
