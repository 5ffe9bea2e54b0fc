"""What the tests share: the model and photos that ship, and the command line as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from common import PHOTOS, Simmap

# Neither these tests nor the processes that they start fill the user's cache of graphs.
os.environ.setdefault("SIMMAP_CACHE", "")

# A slow machine is not a failure; examples are drawn alike on every run.
settings.register_profile(
    "simmap", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("simmap")


@pytest.fixture
def simmap(tmp_path: Path) -> Simmap:
    """Run ``simmap ARGUMENTS`` as a process in an empty folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()

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


@pytest.fixture
def photos() -> tuple[Path, Path]:
    """The two photos that ship."""
    return PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"
