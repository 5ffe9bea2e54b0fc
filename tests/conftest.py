"""What the tests share: the model and photos that ship, and the command line."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from servers import PACKAGES, Milvus, Postgres, milvus_server, postgres_server

from common import PHOTOS, Simmap

# Neither these tests nor the processes that they start fill the user's cache of graphs.
os.environ.setdefault("SIMMAP_CACHE", "")
# As the command line does; here OpenCV is imported before it.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Beside others of its kind, a process with a thread per CPU makes all of them slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow machine is not a failure; examples are drawn alike on every run.
settings.register_profile(
    "simmap", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("simmap")


@pytest.fixture
def simmap(tmp_path: Path) -> Simmap:
    """Run ``simmap ARGUMENTS`` in this process, in an empty folder.

    Both streams are captured below Python, so that what C libraries print is seen too.
    """
    from simmap.cli import main

    folder = tmp_path / "cwd"
    folder.mkdir(exist_ok=True)

    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        texts = list(map(str, arguments))
        with (
            pytest.MonkeyPatch.context() as patch,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            patch.chdir(folder)
            for name, value in environment.items():
                patch.setenv(name, value)
            # A user's module is imported from the folder: each test has its own.
            patch.setattr(sys, "path", [str(folder), *sys.path])
            before = set(sys.modules)
            with _captured(1, out.fileno()), _captured(2, err.fileno()):
                code = main(texts)
            for name in set(sys.modules) - before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                    del sys.modules[name]
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(texts, code, out.read().decode(), err.read().decode())

    return run


@contextmanager
def _captured(descriptor: int, into: int) -> Iterator[None]:
    """Send a standard stream of this process, and Python's, to another file."""
    name = {1: "stdout", 2: "stderr"}[descriptor]
    old = getattr(sys, name)
    old.flush()
    kept = os.dup(descriptor)
    os.dup2(into, descriptor)
    stream = TextIOWrapper(
        os.fdopen(os.dup(descriptor), "wb"), "utf-8", "backslashreplace", write_through=True
    )
    # Its number is the standard one, as in a process.
    stream.fileno = lambda: descriptor  # type: ignore[method-assign]
    setattr(sys, name, stream)
    try:
        yield
    finally:
        setattr(sys, name, old)
        stream.close()
        os.dup2(kept, descriptor)
        os.close(kept)


@pytest.fixture
def simmap_process(tmp_path: Path) -> Simmap:
    """Run ``simmap ARGUMENTS`` as a process in the same folder: where it matters that it is one."""
    folder = tmp_path / "cwd"
    folder.mkdir(exist_ok=True)

    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "simmap.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests of this process."""
    _skip_without("postgres")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def milvus() -> Iterator[Milvus]:
    """A server for all tests of this process."""
    _skip_without("milvus")
    with milvus_server() as server:
        yield server


def _skip_without(kind: str) -> None:
    modules, install = PACKAGES[kind]
    for module in modules:
        pytest.importorskip(module, reason=f"needs a server: {install}")


@pytest.fixture
def photos() -> tuple[Path, Path]:
    """The two photos that ship."""
    return PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"
