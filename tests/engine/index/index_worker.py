"""Processes that write and read an index, for ``test_processes.py`` to watch and to kill.

Reads requests from stdin, one JSON list of jobs a line. The jobs of a line run at the same time, each in a
process of its own; the answer is a JSON list with the lines that each wrote. A job is
``{"do": name, "with": arguments}``; ``"after"`` and ``"delay"`` kill it that many lines and seconds in,
``"at"`` when it has executed that many lines of the index's code. Forking costs milliseconds, where
starting Python anew would cost a second a kill.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from simmap.engine import Engine, SimmapError
from simmap.engine.dataset import find_images
from simmap.engine.index import embedded, update
from simmap.engine.index.check import check_index
from simmap.engine.index.embedded import Index
from simmap.engine.index.search import search_embeddings
from simmap.engine.index.store import Entry
from simmap.engine.index.update import update_index
from simmap.engine.options import Options

Say = Callable[[object], None]


def build(say: Say, path: str, model: str, photos: str) -> None:
    """Index a folder of photos in many small steps."""
    update.COMMIT_ROWS = 4
    engine = Engine(model, device="cpu", options=Options(threads=1))
    target = Index.create(path, engine, photos)
    update_index(target, engine, find_images(photos), on_progress=lambda done, total: say(done))
    say("built")


def write(say: Say, path: str, operations: list[list[Any]]) -> None:
    """Carry out operations and say the number of each when it is done, or its error."""
    embedded.COMPACT_ROWS = 3
    target = Index(path)
    for number, (name, *arguments) in enumerate(operations):
        try:
            if name == "upsert":
                entries, vectors = arguments
                target.upsert(
                    [Entry(*entry) for entry in entries],
                    np.array(vectors, np.float32).reshape(-1, target.dimension),
                )
            elif name == "delete":
                target.delete(arguments[0])
            else:  # a limit on file sizes fails a write half way, as a full disk does
                resource.setrlimit(resource.RLIMIT_FSIZE, (arguments[0], resource.RLIM_INFINITY))
            say(number)
        except SimmapError as error:
            say(f"{type(error).__name__}: {error}")


def read(say: Say, path: str, seconds: float) -> None:
    """Search, look around and open anew, as fast as it goes."""
    target, until = Index(path), time.monotonic() + seconds
    while time.monotonic() < until:
        assert len(Index(path)) >= 0
        for query in np.eye(target.dimension):
            for name, _ in target.search(query[None], 5)[0]:
                assert name
        assert len(target.entries()) >= 0
    say("read")


def find(say: Say, path: str, seconds: float) -> None:
    """Search for half of the images by an embedding, as fast as it goes, and say how often."""
    target, until, times = Index(path), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        (found,) = search_embeddings(target, np.ones((1, target.dimension), np.float32), 100)
        assert len(found.hits) == 100
        times += 1
    say(times)


def check(say: Say, path: str, seconds: float) -> None:
    """Verify the index again and again, and say how often."""
    target, until, times = Index(path), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        check_index(target)
        times += 1
    say(times)


def die_at(number: int) -> None:
    """Kill this process when it has executed that many lines of the index's code."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).name not in ("embedded.py", "database.py", "vectors.py"):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def start(job: dict[str, Any]) -> tuple[int, int]:
    """The process of a job and the pipe that it writes to."""
    out, into = os.pipe()
    child = os.fork()
    if child:
        os.close(into)
        return child, out
    try:
        if "at" in job:
            die_at(job["at"])
        globals()[job["do"]](lambda line: os.write(into, f"{line}\n".encode()), *job["with"])
    except BaseException as error:
        os.write(into, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(0)


def main() -> None:
    """Serve until stdin closes."""
    for line in sys.stdin:
        jobs = json.loads(line)
        started = [start(job) for job in jobs]
        answers = []
        for job, (child, out) in zip(jobs, started, strict=True):
            with open(out) as pipe:  # noqa: PTH123
                lines = []
                if "after" in job:
                    lines = [pipe.readline() for _ in range(job["after"])]
                    time.sleep(job["delay"])
                    os.kill(child, signal.SIGKILL)
                lines += pipe.readlines()
            os.waitpid(child, 0)
            answers.append([text.rstrip("\n") for text in lines if text])
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
