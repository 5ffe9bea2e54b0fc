"""What the tests of the server share: a real process, and clients that speak to it."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from PIL import Image

from common import ARTIFACTS, PHOTOS, SAMPLES
from simmap.engine import Engine, Index
from simmap.engine.dataset import find_images
from simmap.engine.index.update import update_index
from simmap.engine.options import Options

AVG = ARTIFACTS / "avg.onnx"
A, B = PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"
KEYS = {name: f"{name}-0123456789" for name in ("read", "search", "change", "admin", "all")}
STARTING = 60.0  # seconds, on a machine that is busy


class Served:
    """A server in a process.

    Attributes:
        url: its address.
        lines: its log so far, one JSON object each.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.lines = process, list[dict[str, Any]]()
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = str(self.wait("listening")["url"])
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._came:
                self.lines.append(json.loads(line))  # whatever is no JSON fails the test that waits for it
                self._came.notify_all()

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first line of the log with an event and fields."""
        deadline = time.monotonic() + STARTING
        with self._came:
            while True:
                for line in self.lines:
                    if line["event"] == event and fields.items() <= line.items():
                        return line
                assert self.process.poll() is None and time.monotonic() < deadline, self.lines[-5:]
                self._came.wait(0.2)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


@contextmanager
def serving(*arguments: object, within: Sequence[str] = (), **environment: str) -> Iterator[Served]:
    """A server of the small model on a free port, unless the arguments say otherwise.

    ``within``: a command that runs the server.
    """
    texts = list(map(str, arguments))
    if "--model" not in texts and "--index" not in texts:
        texts += ["--model", str(AVG)]
    process = subprocess.Popen(
        [*within, sys.executable, "-m", "simmap.cli", "serve", "--port", "0", *texts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        served = Served(process)
        yield served
        served.stop()
        assert process.stdout is not None and process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()


def engine(model: Path = AVG) -> Engine:
    """As the server opens it."""
    return Engine(model, device="cpu", options=Options(threads=1, workers=1))


def files(**images: Path | bytes) -> dict[str, Any]:
    """Fields of a form that are images."""
    return {
        name: (name, one if isinstance(one, bytes) else one.read_bytes(), "application/octet-stream")
        for name, one in images.items()
    }


def png(pixels: "np.ndarray") -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def noise(seed: int, height: int = 40, width: int = 60) -> bytes:
    """A PNG of its own."""
    return png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def slow_photo(height: int = 3000) -> bytes:
    """A small PNG, 4000 pixels wide, which takes a while to decode."""
    row = np.random.default_rng(0).integers(0, 256, (1, 4000, 3), np.uint8)
    data = BytesIO()
    Image.fromarray(np.tile(row, (height, 1, 1))).save(data, "PNG")
    return data.getvalue()


def figure(client: httpx.Client, name: str) -> float:
    """A figure of ``/metrics``; 0 where it has not been counted."""
    match = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return float(match[1]) if match else 0.0


def make_index(folder: Path) -> Index:
    """An index of a few photos in classes, below ``folder``."""
    root = folder / "photos"
    for label, path in (
        ("buddhas", A),
        ("buddhas", B),
        ("others", SAMPLES / "box.png"),
        ("others", SAMPLES / "home.jpg"),
    ):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / path.name).write_bytes(path.read_bytes())
    for number in range(6):
        (root / "noise").mkdir(exist_ok=True)
        (root / "noise" / f"{number}.png").write_bytes(noise(number))
    made = engine()
    index = Index.create(folder / "index", made, root)
    update_index(index, made, find_images(root))
    return index


def key_setting(key: str, *permissions: str) -> str:
    """What the server's YAML says of a key."""
    may = "".join(f", {one}: true" for one in permissions)
    return f"{{sha256: {hashlib.sha256(key.encode()).hexdigest()}{may}}}"


def bearer(name: str) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {KEYS[name]}"}


def problem(answer: httpx.Response, status: int, field: str | None = None) -> str:
    """The detail of a problem, which has the right form and names no path of the server."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    data = answer.json()
    assert data["status"] == status and data["type"].startswith("urn:simmap:problem:") and data["title"]
    assert data["request_id"] == answer.headers["x-request-id"]
    assert data.get("field") == field, data
    for path in ("/tmp", "/work", "/root", "site-packages", ".onnx", "Traceback"):
        assert path not in answer.text
    return str(data["detail"])
