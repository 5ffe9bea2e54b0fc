"""A folder of photos for the commands."""

import shutil
from pathlib import Path

import pytest

from common import PHOTOS, SAMPLES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine photos in three classes and one without."""
    root = tmp_path / "cwd" / "photos"
    for label, paths in {
        "buddha": sorted(PHOTOS.glob("*.jpg")),
        "box": sorted(SAMPLES.glob("*.png")),
        "aerial": sorted(SAMPLES.glob("aero*.jpg")),
    }.items():
        (root / label).mkdir(parents=True)
        for path in paths:
            shutil.copy(path, root / label)
    shutil.copy(SAMPLES / "fruits.jpg", root)
    return root
