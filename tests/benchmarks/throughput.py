"""How near streams and pairs come to what the CPU must do: ``python tests/benchmarks/throughput.py``.

The work of an image is its decoding, its preparation and one run of the network, each timed alone on one
thread; the work bound of N workers is that over N. ``--images FOLDER`` takes other photos, ``--model FILE``
another artifact. Rows of wall time need a quiet machine and say where it was not.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from common import Row, Settings, Watch, compare, main, photos, quartiles
from simmap.engine import Engine
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.options import Options
from simmap.engine.runtime.cpus import usable_cpus
from simmap.engine.runtime.session import open_session

STREAM = 128  # images a turn

COLD = """
import resource, sys
from simmap.engine import Engine

Engine(sys.argv[1], device="cpu").compare(*sys.argv[2:]).maps
used = resource.getrusage(resource.RUSAGE_SELF)
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(used.ru_utime + used.ru_stime, int(peak.split()[1]) / 1024)
"""


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    model = options.model
    paths = list(islice(cycle(list(photos(options))), STREAM))
    cpus = usable_cpus()
    yield outputs(model, options)
    yield explanation(model, paths, options)
    yield overhead(model, paths, options)
    yield from streams(model, paths, cpus, options)
    yield pairs(model, paths, cpus, options)
    yield from cold(model, paths, options)


def outputs(model: Path, options: Settings) -> Row:
    """The map as a second output of one run."""
    session = open_session(model, device="cpu", threads=1)
    contract = session.contract
    name = session.inference.get_inputs()[0].name
    feed = {name: np.full((1, contract.input.height, contract.input.width, 3), 100, np.uint8)}
    both = ["embedding", "parts"] if contract.head == "affine" else ["pooled", "conv"]
    return compare(
        "run with the map / with the vector only",
        lambda: session.inference.run(both, feed),
        lambda: session.inference.run(both[:1], feed),
        "<= 1.02",
        options,
    )


def explanation(model: Path, paths: list[Path], options: Settings) -> Row:
    """Both maps of a pair beside the embeddings alone, from decoded photos."""
    engine = Engine(model, device="cpu", options=Options(threads=1))
    both = [engine.load(path) for path in paths[:2]]
    return compare(
        "explain a pair / embed two images",
        lambda: engine.compare(*both).maps,
        lambda: deque(engine.vectors(both), maxlen=0),
        "<= 1.03",
        options,
    )


def overhead(model: Path, paths: list[Path], options: Settings) -> Row:
    """All that an image costs on one thread, beside what it must."""
    engine = Engine(model, device="cpu", options=Options(threads=1))
    work = necessary(model)
    few = paths[:8]
    return compare(
        "CPU of an image, 1 thread / (decode + prepare + run)",
        lambda: drain(engine.vectors(few)),
        lambda: [work(path) for path in few],
        "<= 1.05",
        options,
    )


def streams(model: Path, paths: list[Path], cpus: int, options: Settings) -> Iterator[Row]:
    """A stream on every CPU, beside the work bound and beside one image after the other on all CPUs."""
    parallel = Engine(model, device="cpu")
    serial = Engine(model, device="cpu", options=Options(workers=1))
    work = necessary(model)
    calls: list[Callable[[], object]] = [
        lambda: drain(parallel.vectors(paths)),
        lambda: drain(serial.vectors(paths)),
        lambda: [work(path) for path in paths],
    ]
    watch = Watch()
    # The bound counts CPU time, which a busy machine leaves as it is; the streams are wall time.
    seconds = np.array([both(calls) for _ in range(options.turns + 1)])[1:]
    told = watch.told()
    rate = STREAM / np.median(seconds[:, 0, 0])
    bound = seconds[:, 2, 1] / cpus
    yield Row(
        f"work bound / stream of {cpus} workers",
        *quartiles(bound / seconds[:, 0, 0]),
        ">= 0.97",
        "; ".join(filter(None, [f"{rate:.0f} images/s", told])),
        {"images_per_second": float(rate), "others_cpus": watch.others()},
    )
    yield Row(
        f"CPU of a stream of {cpus} workers / the work alone",
        *quartiles(seconds[:, 0, 1] / seconds[:, 2, 1]),
        "<= 1.03",
    )
    yield Row(
        f"stream of {cpus} workers / one after the other on {cpus} CPUs",
        *quartiles(seconds[:, 0, 0] / seconds[:, 1, 0]),
        "< 1",
        told,
    )


def pairs(model: Path, paths: list[Path], cpus: int, options: Settings) -> Row:
    """A pair both at once, beside one image after the other on all CPUs."""
    at_once = Engine(model, device="cpu")
    in_order = Engine(model, device="cpu", options=Options(workers=1))
    return compare(
        f"pair at once / one after the other on {cpus} CPUs",
        lambda: at_once.compare(*paths[:2]),
        lambda: in_order.compare(*paths[:2]),
        "< 1",
        options,
        wall=True,
    )


def cold(model: Path, paths: list[Path], options: Settings) -> Iterator[Row]:
    """A new process that compares one pair, with the cached graph and without."""
    with tempfile.TemporaryDirectory() as folder:

        def run(cache: str) -> list[float]:
            done = subprocess.run(
                [sys.executable, "-c", COLD, model, *paths[:2]],
                env={**os.environ, "SIMMAP_CACHE": cache, "OPENBLAS_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                check=True,
            )
            return [float(value) for value in done.stdout.split()]

        used = np.array([[run(folder), run("")] for _ in range(options.turns + 1)])[1:]
    middle = np.median(used, axis=0)
    yield Row(
        "cold start with the cached graph / without, CPU time",
        *quartiles(used[:, 0, 0] / used[:, 1, 0]),
        note=f"{middle[0, 0] * 1e3:.0f} ms / {middle[1, 0] * 1e3:.0f} ms",
    )
    yield Row(
        "cold start with the cached graph / without, peak memory",
        *quartiles(used[:, 0, 1] / used[:, 1, 1]),
        note=f"{middle[0, 1]:.0f} MiB / {middle[1, 1]:.0f} MiB",
    )


def necessary(model: Path) -> Callable[[Path], object]:
    """What must be done for one image, and nothing else."""
    session = open_session(model, device="cpu", threads=1)
    name = session.inference.get_inputs()[0].name
    wanted = ["embedding" if session.contract.head == "affine" else "pooled"]

    def work(path: Path) -> object:
        pixels, _ = preprocess(load(path).pixels, session.contract.input)
        return session.inference.run(wanted, {name: pixels[None]})

    return work


def both(calls: list[Callable[[], object]]) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each call."""
    found = []
    for call in calls:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return found


def drain(stream: Iterable[object]) -> None:
    """Take all of a stream and keep nothing."""
    deque(stream, maxlen=0)


if __name__ == "__main__":
    main(rows)
