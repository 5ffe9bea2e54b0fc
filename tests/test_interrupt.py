"""Ctrl-C ends a command at once, whatever an artifact does."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import ARTIFACTS

ENDLESS = ARTIFACTS / "hostile" / "endless.onnx"
# A shell starts what it puts into the background with interrupts ignored, and that is inherited.
HEAR = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")


def interrupted(code: str, arguments: list[object], folder: Path) -> "tuple[float, int, str, str]":
    """Seconds from the signal to the end, the exit code, stdout after its first line, stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAR + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
        return time.monotonic() - started, process.returncode, out, err


@pytest.mark.parametrize("settings", ["workers: 0", "workers: 1", "threads: 1"])
def test_a_network_that_never_ends_is_interrupted(
    settings: str, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tmp_path / "engine.yaml"
    config.write_text(f"{settings}\ncache: false\n")
    code = (
        "import sys\nfrom simmap.cli import main\nprint('ready', flush=True)\nsys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["compare", *photos, "--model", ENDLESS, "--config", config]
    seconds, exit_code, out, err = interrupted(code, arguments, tmp_path)
    assert seconds < 2
    assert exit_code != 0 and out == ""
    assert err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_an_engine_is_of_use_after_an_interrupt(
    batch_size: int | None, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from simmap.engine import Engine, Options\n"
        "engine = Engine(sys.argv[1], device='cpu', options=Options(threads=2, cache=False))\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    list(engine.vectors(sys.argv[2:], batch_size=" + repr(batch_size) + "))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
        "print(engine.load(sys.argv[2]).pixels.ndim)\n"
        "engine.close()\n"
    )
    seconds, exit_code, out, err = interrupted(code, [ENDLESS, *photos], tmp_path)
    assert seconds < 2
    assert (exit_code, out, err) == (0, "interrupted\n3\n", "")


@pytest.mark.parametrize("workers", [1, 2])
def test_closing_ends_a_network_that_never_ends(workers: int, photos: tuple[Path, Path]) -> None:
    # given a thread in which a stream is stuck, as in a server
    code = (
        "import sys, threading, time\n"
        "from simmap.engine import ConfigError, Engine, Options\n"
        f"options = Options(threads=2, workers={workers}, cache=False)\n"
        "engine = Engine(sys.argv[1], device='cpu', options=options)\n"
        "def read():\n"
        "    try:\n"
        "        engine.compare(*sys.argv[2:])\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
        "reader = threading.Thread(target=read)\n"
        "reader.start()\n"
        "time.sleep(1)\n"
        "engine.close()\n"
        "reader.join(20)\n"
        "print(reader.is_alive())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ENDLESS), *map(str, photos)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "the engine is closed; open another\nFalse\n"
