"""Pictures as files: round trips, refusals, nothing half-written."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scenes import plain

from simmap.engine.errors import OutputError
from simmap.engine.figures.figure import Figure
from simmap.engine.figures.files import write_picture
from simmap.engine.types import Pixels


class Plain(Figure):
    """One grey pixel."""

    def data(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def picture(self) -> Pixels:
        """The pixel."""
        return plain(1, 1)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
def test_picture_round_trip(suffix: str, tmp_path: Path) -> None:
    smooth = np.stack(np.meshgrid(np.arange(64), np.arange(48)), axis=-1)
    pixels = np.concatenate([smooth, np.full((48, 64, 1), 200)], axis=-1).astype(np.uint8)
    path = tmp_path / f"å{suffix}"
    write_picture(path, pixels, force=False)
    back = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    tolerance = 0 if suffix.lower() == ".png" else 12
    np.testing.assert_allclose(back.astype(int), pixels, atol=tolerance)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_existing_picture_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        write_picture(path, plain(4, 4), force=False)
    assert path.read_bytes() == b"old"
    with pytest.raises(OutputError, match="exists already"):
        Plain().save(path)
    assert path.read_bytes() == b"old"
    write_picture(path, plain(4, 4), force=True)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png, \.jpg, \.jpeg, \.webp"):
        write_picture(tmp_path / name, plain(4, 4), force=True)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        write_picture(tmp_path / "none" / "a.png", plain(4, 4), force=False)
    # The permissions of a folder do not bind the superuser, under whom tests may run.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="not writable"):
        write_picture(tmp_path / "a.png", plain(4, 4), force=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_picture_too_large_for_its_format_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"66000 pixels is too large"):
        write_picture(tmp_path / f"a{suffix}", plain(66000, 2), force=False)
    assert not list(tmp_path.iterdir())
