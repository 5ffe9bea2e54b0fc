"""What HTTP costs beside the same work in a process: ``python tests/benchmarks/serving.py [--full]``.

Clients ask a server on this machine to compare photos, each as fast as it is answered. In turns with them,
as many threads as CPUs do the same on an engine, from the same bytes to the same maps. The clients run
beside the server and take CPU from it: the note says how much. Each answer is held against the engine's own.
A client that is turned away waits as long as it is told.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice, pairwise
from pathlib import Path

import cv2
import fastapi  # noqa: F401  # of the server; without it there are no rows
import numpy as np

from common import Row, Settings, Watch, main, photos, quartiles
from simmap.engine import Engine
from simmap.engine.options import Options
from simmap.engine.runtime.cpus import usable_cpus

CLIENTS = (1, 8, 32)
FULL_CLIENTS = (1, 2, 8, 32, 128)
SECONDS = 3.0  # of one turn of one side
TURNS = 3
BOUNDARY = "5f2a7c"


@dataclass
class Load:
    """What clients met.

    Attributes:
        seconds: of each answer.
        shed: answers of 503.
        wrong: answers that are not the engine's own.
        elapsed: seconds of all of it.
    """

    seconds: list[float] = field(default_factory=list)
    shed: int = 0
    wrong: int = 0
    elapsed: float = 0.0


@dataclass(frozen=True)
class Question:
    """A request, and the score and first map that must come back."""

    pair: tuple[bytes, bytes]
    body: bytes
    score: float
    map: list[list[float]]

    def is_answered(self, content: bytes) -> bool:
        """Whether an answer is the engine's own."""
        data = json.loads(content)
        return bool(data["score"] == self.score and data["maps"][0] == self.map)


def rows(options: Settings) -> Iterator[Row]:
    """One for each number of clients."""
    cv2.setNumThreads(1)
    engine = Engine(options.model, device="cpu", options=Options(threads=1, workers=1))
    asked = questions(engine, list(islice(cycle(photos(options)), 8)))
    for clients in FULL_CLIENTS if options.full else CLIENTS:
        yield measured(engine, asked, clients, options)


def questions(engine: Engine, paths: list[Path]) -> list[Question]:
    """Neighbours in a list of photos."""
    contents = [path.read_bytes() for path in paths]
    found = []
    for pair in pairwise(contents):
        result = engine.compare(*pair)
        found.append(Question(pair, form(*pair), result.score, result.maps[0].tolist()))
    return found


def form(first: bytes, second: bytes) -> bytes:
    """The body of a comparison."""
    parts = b""
    for name, content in (("a", first), ("b", second)):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
        parts += head.encode() + content + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def server(model: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A server in a process, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simmap.cli", "serve", "--port", "0", "--model", str(model), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        port = int(json.loads(process.stderr.readline())["url"].rpartition(":")[2])
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, port
    finally:
        process.terminate()
        process.wait()


def measured(engine: Engine, asked: list[Question], clients: int, options: Settings) -> Row:
    """Throughput over that in the process."""
    cpus, watch = usable_cpus(), Watch()
    ratios, total, alone, own_cpu = [], Load(), 0, 0.0
    with server(options.model) as (process, port):
        load(port, asked, clients, 1.0)
        before, client_cpu, wall = cpu_seconds(process.pid), 0.0, 0.0
        for _ in range(TURNS):
            started = time.process_time()
            turn = load(port, asked, clients, SECONDS)
            client_cpu += time.process_time() - started
            total.seconds += turn.seconds
            total.shed, total.wrong = total.shed + turn.shed, total.wrong + turn.wrong
            started, wall_started = time.process_time(), time.perf_counter()
            count = in_process(engine, asked, min(cpus, clients), SECONDS)
            wall = time.perf_counter() - wall_started
            own_cpu, alone = own_cpu + time.process_time() - started, alone + count
            ratios.append(len(turn.seconds) / turn.elapsed / (count / wall))
        used, peak = cpu_seconds(process.pid) - before, peak_megabytes(process.pid)
    done, told = len(total.seconds), watch.told()
    middle, late = (1e3 * np.percentile(total.seconds, [50, 99])).tolist()
    figures = {
        "requests": done,
        "requests_s": done / (TURNS * SECONDS),
        "p50_ms": middle,
        "p99_ms": late,
        "server_cpu_ms": 1e3 * used / done,
        "own_cpu_ms": 1e3 * own_cpu / alone,
        "client_cpu_ms": 1e3 * client_cpu / done,
        "peak_mb": peak,
        "shed": total.shed / (total.shed + done),
        "wrong": total.wrong,
    }
    note = (
        f"{done / (TURNS * SECONDS):.1f}/s, p50 {middle:.0f}, p99 {late:.0f} ms; "
        f"CPU {figures['server_cpu_ms']:.1f} ms (in process {figures['own_cpu_ms']:.1f}, client "
        f"{figures['client_cpu_ms']:.1f}); {peak:.0f} MB; {figures['shed']:.1%} shed, {total.wrong} wrong"
    )
    name = f"serve comparisons, {clients} clients / in process"
    return Row(name, *quartiles(ratios), ">= 0.9", "; ".join(filter(None, [note, told])), figures)


def load(port: int, asked: list[Question], clients: int, seconds: float) -> Load:
    """Clients that ask one question after another."""
    found, lock, deadline = Load(), threading.Lock(), time.perf_counter() + seconds
    right = [
        set[bytes]() for _ in asked
    ]  # answers that were read and found right; the same bytes are right too
    started = time.perf_counter()

    def ask(number: int) -> None:
        mine = Load()
        with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
            for at in islice(cycle(range(len(asked))), number % len(asked), None):
                if time.perf_counter() >= deadline:
                    break
                begun = time.perf_counter()
                status, headers, content = post(connection, asked[at].body)
                if status == 503:
                    mine.shed += 1
                    time.sleep(min(retry_after(headers), max(0.0, deadline - time.perf_counter())))
                    continue
                mine.seconds.append(time.perf_counter() - begun)
                if content in right[at]:
                    continue
                if status == 200 and asked[at].is_answered(content):
                    right[at].add(content)
                else:
                    mine.wrong += 1
        with lock:
            found.seconds += mine.seconds
            found.shed, found.wrong = found.shed + mine.shed, found.wrong + mine.wrong

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(ask, range(clients)))
    found.elapsed = time.perf_counter() - started
    return found


def post(connection: socket.socket, body: bytes) -> tuple[int, bytes, bytes]:
    """Status, headers in lower case and content of a comparison.

    By hand: ``http.client`` would take as much CPU as the server's own HTTP, and from the same CPUs.
    """
    head = (
        "POST /v1/compare HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    received = b""
    while b"\r\n\r\n" not in received:
        received += some(connection)
    found, _, content = received.partition(b"\r\n\r\n")
    headers = found.lower()
    size = int(value_of(headers, b"content-length"))
    while len(content) < size:
        content += some(connection)
    return int(headers.split(b" ", 2)[1]), headers, content


def some(connection: socket.socket) -> bytes:
    """What has arrived.

    Raises:
        ConnectionError: the server has closed the connection.
    """
    data = connection.recv(1 << 18)
    if not data:
        raise ConnectionError("the server has closed the connection")
    return data


def value_of(headers: bytes, name: bytes) -> bytes:
    """Of a header that must be there."""
    return headers.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()


def retry_after(headers: bytes) -> float:
    """Seconds."""
    return float(value_of(headers, b"retry-after"))


def in_process(engine: Engine, asked: list[Question], threads: int, seconds: float) -> int:
    """Comparisons that threads of this process do, as the server's."""
    deadline = time.perf_counter() + seconds

    def work(number: int) -> int:
        count = 0
        for question in islice(cycle(asked), number, None):
            if time.perf_counter() >= deadline:
                break
            pair = engine.compare(*question.pair)
            assert pair.score == question.score and len(pair.maps) == len(pair.influence) == 2
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def cpu_seconds(pid: int) -> float:
    """Of a process so far (Linux)."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has held (Linux)."""
    return status(pid, "VmHWM") / 1024


def status(pid: int, name: str) -> int:
    """A number of ``/proc/PID/status``: kilobytes, or threads."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main(rows)
