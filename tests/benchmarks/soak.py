"""A server under mixed load with bad input: ``python tests/benchmarks/soak.py --minutes 30``.

Clients compare, embed, search, add and remove, send broken images, forms and heads, leave in the middle of a
body or before an answer, and reload the model. Every answer must be the engine's own or a problem that names
it, never 500. Memory, threads and descriptors are printed every half minute; the first quarter warms up. The
exit code is 1 if an answer was wrong or one of the three grew.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import cv2
import numpy as np
from serving import BOUNDARY, Question, form, questions, server, status

from common import MODEL, PHOTOS, SAMPLES
from simmap.engine import Engine, Index
from simmap.engine.dataset import find_images
from simmap.engine.index.update import update_index
from simmap.engine.options import Options

CLIENTS = 6
EVERY = 30.0  # seconds between two lines
GROWTH = 1.05  # of memory, that allocators may show
KEY = "soak-key-of-no-use-elsewhere"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


class Client:
    """One that does whatever comes to it."""

    def __init__(self, port: int, asked: list[Question], seed: int, counts: "Counter[str]") -> None:
        self._port, self._asked, self._random, self._counts = port, asked, random.Random(seed), counts

    def step(self) -> None:
        """One request."""
        kinds = (
            [self.compare] * 8
            + [self.search] * 3
            + [self.change, self.broken, self.half, self.leave, self.wild]
        )
        kind = self._random.choice(kinds)
        try:
            self._counts[f"{kind.__name__} {kind()}"] += 1
        except (OSError, HTTPException) as error:
            self._counts[f"{kind.__name__} {type(error).__name__}"] += 1

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = KIND) -> tuple[int, bytes]:
        """A request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind, "Authorization": f"Bearer {KEY}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def compare(self) -> str:
        """A comparison, whose answer is checked."""
        question = self._random.choice(self._asked)
        code, content = self.ask("POST", "/v1/compare?points=1", question.body)
        if code == 200:
            return "right" if question.is_answered(content) else "WRONG"
        return str(code)

    def search(self) -> str:
        """A search for a photo of the index, which must be found."""
        first, second = self._random.choice(self._asked).pair
        body = form(first, second).replace(b'name="a"', b'name="image"', 1)
        body = body[: body.index(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="b"'.encode())]
        code, content = self.ask("POST", "/v1/search?k=3&maps=1", body + f"--{BOUNDARY}--\r\n".encode())
        if code == 200:
            return "right" if json.loads(content)["hits"][0]["score"] > 0.999 else "WRONG"
        return str(code)

    def change(self) -> str:
        """An image that comes and goes."""
        pixels = np.frombuffer(self._random.randbytes(3 * 64 * 64), np.uint8).reshape(64, 64, 3)
        body = form(cv2.imencode(".png", pixels)[1].tobytes(), b"x")
        body = body.replace(b'name="a"', b'name="image"', 1).replace(
            b'name="b"; filename="b"', b'name="label"', 1
        )
        code, content = self.ask("POST", "/v1/index/images", body)
        if code == 201:
            code, _ = self.ask("DELETE", f"/v1/index/images/{json.loads(content)['id']}")
        return str(code)

    def broken(self) -> str:
        """Images and forms with wrong bytes."""
        body = bytearray(self._random.choice(self._asked).body)
        for _ in range(self._random.randint(1, 40)):
            body[self._random.randrange(len(body))] = self._random.randrange(256)
        return str(self.ask("POST", "/v1/compare", bytes(body[: self._random.randrange(1, len(body))]))[0])

    def half(self) -> str:
        """A client that leaves in the middle of a body."""
        body = self._random.choice(self._asked).body
        return self._send(body, self._random.randrange(len(body)))

    def leave(self) -> str:
        """A client that leaves before its answer."""
        body = self._random.choice(self._asked).body
        return self._send(body, len(body))

    def wild(self) -> str:
        """Bytes that are no HTTP."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as stream:
            stream.sendall(self._random.randbytes(self._random.randint(1, 3000)) + b"\r\n\r\n")
            return "sent"

    def _send(self, body: bytes, count: int) -> str:
        head = (
            f"POST /v1/compare HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nAuthorization: Bearer {KEY}\r\n"
        )
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as stream:
            stream.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:count])
        return "left"


def main() -> int:
    """Run the load; 1 if something was wrong or grew."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, default=30.0)
    made.add_argument("--model", type=Path, default=MODEL)
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), arguments.model, arguments.minutes)


def run(folder: Path, model: Path, minutes: float) -> int:
    """In an empty folder."""
    engine = Engine(model, device="cpu", options=Options(threads=1, workers=1))
    root = folder / "photos"
    root.mkdir()
    for path in [*PHOTOS.glob("*.jpg"), *SAMPLES.glob("*.jpg")][:6]:
        (root / path.name).write_bytes(path.read_bytes())
    update_index(Index.create(folder / "index", engine, root), engine, find_images(root))
    asked = questions(engine, sorted(root.iterdir()))
    config = folder / "server.yaml"
    sha256 = hashlib.sha256(KEY.encode()).hexdigest()
    config.write_text(
        f"keys: {{soak: {{sha256: {sha256}, read: true, search: true, change: true, admin: true}}}}\n"
    )
    counts: Counter[str] = Counter()
    with server(model, "--index", str(folder / "index"), "--config", str(config)) as (process, port):
        ended = threading.Event()

        def work(seed: int) -> None:
            client = Client(port, asked, seed, counts)
            while not ended.is_set():
                client.step()

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        seen = list[tuple[float, int, int]]()
        deadline = time.monotonic() + 60 * minutes
        while time.monotonic() < deadline:
            time.sleep(min(EVERY, max(0.1, deadline - time.monotonic())))
            process.send_signal(signal.SIGHUP)
            descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208
            seen.append((status(process.pid, "VmRSS") / 1024, status(process.pid, "Threads"), descriptors))
            print(
                f"{minutes - (deadline - time.monotonic()) / 60:5.1f} min  {seen[-1][0]:7.1f} MB  "
                f"{seen[-1][1]:3} threads  {seen[-1][2]:3} descriptors  {sum(counts.values()):7} requests",
                flush=True,
            )
        ended.set()
        for thread in threads:
            thread.join()
    for name, count in sorted(counts.items()):
        print(f"{count:8}  {name}")
    warm = seen[len(seen) // 4 :]
    middle = len(warm) // 2
    early, late = (np.median(np.array(part or warm), axis=0) for part in (warm[:middle], warm[middle:]))
    print(f"from {early[0]:.1f} to {late[0]:.1f} MB, {early[1]:.0f} to {late[1]:.0f} threads, "
          f"{early[2]:.0f} to {late[2]:.0f} descriptors")  # fmt: skip
    wrong = any("WRONG" in name or name.endswith(" 500") for name in counts)
    return int(wrong or late[0] > GROWTH * early[0] or late[1] > early[1] + 2 or late[2] > early[2] + 10)


if __name__ == "__main__":
    sys.exit(main())
