"""Ctrl-C: one line, exit code 130, within two seconds, whatever the process is doing."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, PHOTOS

AVG = ARTIFACTS / "avg.onnx"
LINE = "simmap: interrupted\n"


def interrupted(command: list[str], folder: Path, delay: float) -> tuple[int, str, float]:
    """Exit code, stderr and seconds to the end of a process that gets SIGINT after ``delay`` seconds."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    stderr = process.communicate(timeout=30)[1]
    return process.returncode, stderr, time.monotonic() - start


def code(body: str) -> list[str]:
    """A process that says so on stderr once Python is up, then runs ``body``."""
    return [sys.executable, "-c", f"import sys, time\nfrom simmap.cli import run\n{body}"]


def test_an_interrupt_at_any_time_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    # Until the file cli.py runs, Python itself answers: there the delays start after it.
    draw = random.Random(0)
    ends = []
    for _ in range(12):
        process = subprocess.Popen(
            code(
                "print(flush=True)\n"
                f"sys.argv[1:] = {['compare', *map(str, sorted(PHOTOS.glob('*.jpg')))]!r}\n"
                "run()"
            ),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0.001, 0.3))
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=30)[1]
        ends.append((process.returncode, stderr))
        for path in tmp_path.iterdir():
            if path.name == "similarity.png":
                assert cv2.imread(str(path)) is not None
                path.unlink()
    assert set(ends) <= {(130, LINE), (0, "")}, ends
    assert ends.count((130, LINE)) >= 6


def test_a_long_build_ends_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)
    for number in range(200):
        noise[0, 0] = number
        (tmp_path / "photos" / f"{number}.bmp").write_bytes(cv2.imencode(".bmp", noise)[1].tobytes())
    command = [sys.executable, "-m", "simmap.cli", "index", "build", "photos", "-o", "ix"]
    status, stderr, seconds = interrupted(command, tmp_path, 1.5)
    assert (status, stderr) == (130, LINE)
    assert seconds < 2
    for path in (tmp_path / "photos").iterdir():
        path.unlink()


# A library that waits in C, one that drops the exception, and one that turns it into another.
WAITS = (
    "import ctypes\nmutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock\n"
    "lock(mutex)\nlock(mutex)"
)
SWALLOWS = "while True:\n    try: time.sleep(20)\n    except KeyboardInterrupt: pass"
TURNS = "try: time.sleep(20)\nexcept KeyboardInterrupt: raise ImportError('half of a module')"


@pytest.mark.parametrize("body", [WAITS, SWALLOWS, TURNS], ids=["waits", "swallows", "turns"])
def test_what_ignores_an_interrupt_is_ended(tmp_path: Path, body: str) -> None:
    (tmp_path / "stuck.py").write_text(body)
    script = code(
        "from simmap.commands.inspect import command\n"
        "command.callback = lambda **_: exec(open('stuck.py').read(), {'time': time})\n"
        "sys.argv[1:] = ['inspect', 'x']\nrun()"
    )
    status, stderr, seconds = interrupted(script, tmp_path, 0.8)
    assert (status, stderr) == (130, LINE)
    assert seconds < 2
