"""Streams: the order, errors, memory and threads of many images at once, held against one at a time."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import ARTIFACTS, PHOTOS
from simmap.engine import ArtifactError, ConfigError, Engine
from simmap.engine.errors import ImageError, SimmapError
from simmap.engine.images.photo import Photo, Source
from simmap.engine.options import Options
from simmap.engine.runtime.session import run_options
from simmap.engine.streams import _terminate

BATCHES = [None, 1, 2, 3, 5]
ENGINES: dict[tuple[str, int], Engine] = {}
Event = tuple[str, ...]


def engine_of(name: str, workers: int) -> Engine:
    """One engine of a kind; of its CPUs, which the machine need not have, each worker gets some."""
    if (name, workers) not in ENGINES:
        path = ARTIFACTS / f"{name}.onnx"
        ENGINES[name, workers] = Engine(
            path, device="cpu", options=Options(threads=workers * 2, workers=workers, cache=False)
        )
    return ENGINES[name, workers]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Images of every source and fate: the artifact ``fragile`` gives constant ones no direction."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (size, 70, 3), dtype=np.uint8) for size in (40, 160)]
    for at, array in enumerate(arrays):
        cv2.imwrite(str(folder / f"{at}.png"), array)
    for value in (0, 200):
        cv2.imwrite(str(folder / f"constant{value}.png"), np.full((20, 20, 3), value, np.uint8))
    good = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    names = ("0.png", "1.png", "cut.png", "missing.png", "constant0.png", "constant200.png")
    return [*(folder / name for name in names), good, b"nothing", Photo(arrays[1], "photo")]


def events_of(stream: Callable[..., Iterator[object]], *arguments: object, **options: object) -> list[Event]:
    """What a stream gives and reports, in the order in which it does, bit for bit."""
    events: list[Event] = []
    caller = threading.current_thread()

    def refuse(source: Source, error: SimmapError) -> None:
        assert threading.current_thread() is caller
        events.append(("error", str(source), str(error)))

    for vector in stream(*arguments, on_error=refuse, **options):
        parts = getattr(vector, "parts", np.empty(0))
        events.append(("image", vector.path, str(vector.geometry), digest(vector.embedding), digest(parts)))  # type: ignore[attr-defined]
    return events


def digest(array: np.ndarray) -> str:
    """Every bit of an array."""
    return f"{array.shape} {array.dtype} {array.tobytes().hex()}"


@pytest.mark.parametrize("name", ["avg", "affine_bias", "fragile", "max"])
@given(st.lists(st.integers(0, 8), max_size=30), st.integers(1, 8), st.sampled_from(BATCHES), st.booleans())
def test_many_at_once_are_as_one_after_the_other(
    kinds: list[Source], name: str, pattern: list[int], workers: int, batch_size: int | None, places: bool
) -> None:
    # given the images of a pattern, each embedded alone by one thread
    serial = engine_of(name, 1)
    method = "embed" if places else "vectors"
    expected = [event for at in pattern for event in events_of(getattr(serial, method), [kinds[at]])]
    # when a stream takes them all
    stream = getattr(engine_of(name, workers), method)
    found = events_of(stream, (kinds[at] for at in pattern), batch_size=batch_size)
    # then the same comes out in the same order
    assert found == expected


@given(
    st.lists(st.sampled_from([0, 1]), max_size=9),
    st.integers(1, 8),
    st.sampled_from(BATCHES),
    st.sampled_from([2, 3, 7]),
)
def test_an_error_comes_after_the_images_before_it(
    kinds: list[Source], before: list[int], workers: int, batch_size: int | None, bad: int
) -> None:
    engine = engine_of("avg", workers)
    sources = [kinds[at] for at in [*before, bad, 0, 1]]
    paths: list[str] = []
    with pytest.raises(ImageError):
        paths.extend(vector.path for vector in engine.vectors(sources, batch_size=batch_size))
    assert paths == [str(source) for source in sources[: len(before)]]


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("batch_size", BATCHES)
def test_a_list_that_breaks_off_gives_its_full_batches_first(
    kinds: list[Source], workers: int, batch_size: int | None
) -> None:
    def sources() -> Iterator[Source]:
        yield from (kinds[at % 2] for at in range(32))
        raise OSError("the disk is gone")

    size = batch_size or 1
    paths: list[str] = []
    with pytest.raises(OSError, match="the disk is gone"):
        paths.extend(
            vector.path for vector in engine_of("avg", workers).vectors(sources(), batch_size=batch_size)
        )
    assert paths == [str(kinds[at % 2]) for at in range(32 // size * size)]


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("batch_size", BATCHES)
def test_a_stream_reads_only_a_few_images_ahead(
    kinds: list[Source], workers: int, batch_size: int | None
) -> None:
    read = 0

    def sources() -> Iterator[Source]:
        nonlocal read
        while read < 1000:
            read += 1
            yield kinds[read % 2]

    stream = engine_of("avg", workers).vectors(sources(), batch_size=batch_size)
    assert read == 0
    size = batch_size or 1
    for taken in range(1, 40):
        next(stream)
        assert read <= taken + 2 * workers + 4 * size


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("end", ["break", "close", "raise", "on_error", "drop", "unread"])
@pytest.mark.parametrize("closed", [True, False])
def test_no_thread_outlives_its_engine(
    kinds: list[Source], workers: int, batch_size: int | None, end: str, closed: bool
) -> None:
    class StopError(Exception):
        pass

    def refuse(source: Source, error: SimmapError) -> None:
        raise StopError

    before = set(threading.enumerate())
    sources = (kinds[at % 3 if end == "on_error" else at % 2] for at in range(1000))
    options = Options(threads=workers * 2, workers=workers, cache=False)
    engine = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=options)
    stream = engine.embed(sources, batch_size=batch_size, on_error=refuse)
    if end == "break":
        for _ in stream:
            break
        del _
    elif end == "close":
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    elif end == "raise":
        with pytest.raises(StopError):
            stream.throw(StopError)  # type: ignore[attr-defined]
    elif end == "on_error":
        with pytest.raises(StopError):
            list(stream)
    elif end == "drop":
        next(stream)
    if closed:
        engine.close()
    else:
        stream = iter(())
        del engine, sources
        gc.collect()
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
    assert set(threading.enumerate()) <= before


def test_several_threads_share_one_engine(kinds: list[Source]) -> None:
    good = [source for at, source in enumerate(kinds) if at not in (4, 5)]
    expected = events_of(engine_of("affine_bias", 1).embed, good * 3)
    engine = Engine(
        ARTIFACTS / "affine_bias.onnx", device="cpu", options=Options(threads=8, workers=4, cache=False)
    )
    found: dict[int, list[Event]] = {}

    def work(at: int) -> None:
        found[at] = events_of(engine.embed, good * 3, batch_size=[None, 2][at % 2])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(at) for at in range(6)] == [expected] * 6


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_streams_within_the_loop_over_a_stream_are_served(
    kinds: list[Source], workers: int, batch_size: int | None
) -> None:
    engine = engine_of("avg", workers)
    sources = [kinds[at % 2] for at in range(12)]
    expected = [event[1] for event in events_of(engine_of("avg", 1).embed, sources)]
    paths, abandoned = [], []
    for outer in engine.embed(iter(sources), batch_size=batch_size):
        paths.append(outer.path)
        inner = engine.vectors(sources, batch_size=batch_size)
        assert next(inner).path == expected[0]
        abandoned.append(inner)  # half read, while others go on
        assert [vector.path for vector in engine.vectors(sources, batch_size=batch_size)] == expected
        assert engine.compare(kinds[0], kinds[1]).score > -1
    assert paths == expected


def test_many_threads_read_abandon_and_nest_at_the_same_time(kinds: list[Source]) -> None:
    engine = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=Options(threads=2, workers=2, cache=False))
    score = engine.compare(kinds[0], kinds[1]).score
    sources = [kinds[at % 2] for at in range(8)]
    seen: list[float] = []

    def work(at: int) -> None:
        for turn in range(5):
            stream = engine.embed(sources, batch_size=[None, 2, 3][(at + turn) % 3])
            for read, _ in zip(range(turn + 2), stream, strict=False):
                if read == 1:
                    seen.append(engine.compare(kinds[0], kinds[1]).score)
            if turn % 2:
                stream.close()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=work, args=(at,), daemon=True) for at in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert seen == [score] * 16 * 5
    engine.close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_closed_engine_says_so(kinds: list[Source], workers: int, batch_size: int | None) -> None:
    options = Options(threads=2, workers=workers, cache=False)
    with Engine(ARTIFACTS / "avg.onnx", device="cpu", options=options) as engine:
        stream = engine.embed([kinds[0]] * 100, batch_size=batch_size)
        next(stream)
    for use in (
        lambda: list(stream),
        lambda: engine.compare(kinds[0], kinds[1]),
        lambda: list(engine.vectors([kinds[0]], batch_size=batch_size)),
        engine.warm_up,
    ):
        with pytest.raises(ConfigError, match="the engine is closed"):
            use()
    engine.close()
    assert engine.contract.pooling == "avg"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_engine_works_in_a_forked_process(kinds: list[Source]) -> None:
    code = (
        "import os, sys\n"
        "from simmap.engine import Engine, Options\n"
        "engine = Engine(sys.argv[1], device='cpu', options=Options(threads=2, cache=False))\n"
        "score = engine.compare(*sys.argv[2:]).score\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if engine.compare(*sys.argv[2:]).score == score else 3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    arguments = [sys.executable, "-c", code, ARTIFACTS / "avg.onnx", kinds[0], kinds[1]]
    assert subprocess.run(list(map(str, arguments)), check=False, timeout=60).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
def test_memory_does_not_grow_with_the_number_of_calls() -> None:
    code = (
        "import sys, numpy as np\n"
        "from simmap.engine import Engine, Options\n"
        "engine = Engine(sys.argv[1], device='cpu', options=Options(threads=2, cache=False))\n"
        "photos = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)\n"
        "def used():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "for _ in range(1000):\n"
        "    engine.compare(*photos)\n"
        "before = used()\n"
        "for _ in range(4000):\n"
        "    engine.compare(*photos)\n"
        "print(used() - before)\n"
    )
    arguments = [sys.executable, "-c", code, str(ARTIFACTS / "avg.onnx")]
    grown = int(subprocess.run(arguments, capture_output=True, check=True, text=True).stdout)
    # Threads of their own for each call left 1.3 KB behind: 5.2 MB.
    assert grown < 1e6


@pytest.mark.parametrize("fate", ["gone", "replaced", "same"])
def test_a_long_stream_keeps_to_the_artifact_that_was_opened(
    kinds: list[Source], tmp_path: Path, fate: str
) -> None:
    # given an engine whose long streams open the artifact once more
    path = tmp_path / "model.onnx"
    path.write_bytes((ARTIFACTS / "avg.onnx").read_bytes())
    engine = Engine(path, device="cpu", options=Options(threads=8, workers=4, cache=False))
    # when the file has gone, or is another by then
    if fate != "same":
        path.unlink()
    if fate == "replaced":
        path.write_bytes((ARTIFACTS / "max.onnx").read_bytes())
    # then the stream's results are those of the artifact that was opened
    sources = [kinds[at % 2] for at in range(20)]
    assert events_of(engine.embed, sources) == events_of(engine_of("avg", 1).embed, sources)


def test_pairs_are_the_same_however_many_work(photos: tuple[Path, Path]) -> None:
    pairs = [
        Engine(
            ARTIFACTS / "affine_bias.onnx", device="cpu", options=Options(threads=threads, workers=workers)
        ).compare(*photos)
        for threads, workers in ((1, 1), (2, 1), (2, 2), (8, 0), (3, 8))
    ]
    for pair in pairs[1:]:
        assert pair.score == pairs[0].score and pair.residuals == pairs[0].residuals
        np.testing.assert_array_equal(pair.maps, pairs[0].maps)


def test_the_first_bad_image_of_a_pair_is_named(kinds: list[Source]) -> None:
    for workers in (1, 2):
        with pytest.raises(ImageError, match=r"cut\.png"):
            engine_of("avg", workers).compare(kinds[2], kinds[3])
        with pytest.raises(ImageError, match=r"missing\.png"):
            engine_of("avg", workers).compare(kinds[3], kinds[2])


def test_mistakes_are_told_before_the_first_image(kinds: list[Source]) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        engine_of("avg", 2).embed(kinds, batch_size=0)
    with pytest.raises(ConfigError, match="list of images"):
        engine_of("avg", 2).vectors("a.jpg")  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux tells it")
@pytest.mark.parametrize("batch_size", [None, 4])
def test_memory_does_not_grow_with_the_number_of_images(batch_size: int | None) -> None:
    code = (
        "import sys, cv2, numpy as np\n"
        "from simmap.engine import Engine, Options\n"
        "rng = np.random.default_rng(0)\n"
        "pixels = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (1000, 800))\n"
        "data = cv2.imencode('.jpg', pixels)[1].tobytes() + bytes(10**6)\n"
        "model, count, batch = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])\n"
        "engine = Engine(model, device='cpu', options=Options(threads=4, cache=False))\n"
        "sources = (bytes(bytearray(data)) for _ in range(count))\n"
        "assert sum(1 for _ in engine.embed(sources, batch_size=batch)) == count\n"
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])\n"
    )

    def peak(count: int) -> int:
        arguments = [sys.executable, "-c", code, ARTIFACTS / "avg.onnx", str(count), str(batch_size)]
        return int(subprocess.run(arguments, capture_output=True, check=True, text=True).stdout) * 1024

    # One image is 2.4 MB of pixels and 1 MB of file: 450 that stay would be more than 1 GB, or 450 MB.
    assert peak(500) < peak(50) + 60e6


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize("batch_size", [None, 3])
def test_an_interrupt_ends_a_stream(batch_size: int | None) -> None:
    code = (
        "import itertools, signal, sys\n"
        "from simmap.engine import Engine, Options\n"
        # A shell starts what it puts into the background with interrupts ignored, and that is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "engine = Engine(sys.argv[1], device='cpu', options=Options(threads=4, cache=False))\n"
        "for vector in engine.embed(itertools.repeat(sys.argv[2]), batch_size=eval(sys.argv[3])):\n"
        "    print('going', flush=True)\n"
    )
    arguments = [sys.executable, "-c", code, ARTIFACTS / "avg.onnx", PHOTOS / "buddha_a.jpg", str(batch_size)]
    with subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert told.rstrip().endswith("KeyboardInterrupt")


def test_a_stream_that_ends_early_ends_its_runs() -> None:
    runs = run_options()
    assert not runs.terminate
    _terminate(runs)()
    session = engine_of("avg", 1)._network.session
    photo = np.zeros((session.contract.input.height, session.contract.input.width, 3), np.uint8)
    with pytest.raises(ArtifactError, match="the network failed"):
        session.infer([photo], session.contract.explained, runs)
