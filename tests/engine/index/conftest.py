"""An empty index, photos to fill one, and processes that work on it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from index_common import ENGINE, Place, Run

from simmap.engine.index.embedded import Index


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Jobs of ``index_worker.py``, and what each of them wrote."""
    worker = [sys.executable, str(Path(__file__).with_name("index_worker.py"))]
    with subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        send, receive = process.stdin, process.stdout

        def ask(jobs: list[dict[str, Any]]) -> list[list[str]]:
            send.write(json.dumps(jobs) + "\n")
            send.flush()
            answers: list[list[str]] = json.loads(receive.readline())
            return answers

        yield ask
        send.close()


@pytest.fixture
def made(tmp_path: Path) -> Index:
    """An empty index."""
    return Index.create(tmp_path / "index", ENGINE, tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty small photos of noise in three classes, and a file that is no image."""
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photos" / f"class{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    (tmp_path / "photos" / "class1" / "30.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture(params=["embedded", "postgres", "milvus"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where indexes of one kind are made."""
    server = None if request.param == "embedded" else request.getfixturevalue(request.param)
    return Place(request.param, server, tmp_path)
