"""Bringing an index up to date with the photos."""

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from index_common import ENGINE, content, files, vectors_of

from simmap.engine import ImageError
from simmap.engine.dataset import Item, find_images
from simmap.engine.index import update
from simmap.engine.index.embedded import Index
from simmap.engine.index.update import Update, update_index


def build(path: Path, photos: Path, **options: Any) -> tuple[Index, Update]:
    target = Index.create(path, ENGINE, photos)
    return target, update_index(target, ENGINE, find_images(photos), **options)


def test_an_update_embeds_what_is_new_or_changed(tmp_path: Path, photos: Path) -> None:
    told: list[tuple[int, int]] = []
    target, done = build(tmp_path / "index", photos, on_progress=lambda *counts: told.append(counts))
    assert (done.added, done.kept) == (60, 0) and told[-1] == (61, 61)
    ((path, error),) = done.skipped
    assert path == str(photos / "class1" / "30.jpg") and error.startswith(path)
    first = content(target)
    for vector in ENGINE.vectors([photos / name for name in first]):
        wide = vector.embedding.astype(np.float64)
        name = target.id_of(vector.path)
        kept, (stored,) = target.get([name])
        np.testing.assert_allclose(stored, wide / np.sqrt((wide**2).sum()), atol=1e-6)
        assert kept[0][:4] == (name, name.split("/")[0], 12, 16) and target.path_of(name) == vector.path
    # Nothing to do but to try the unreadable one again, and one that is not there.
    before = files(target.path)
    told.clear()
    items = [*find_images(photos), Item(str(photos / "none.png"), None)]
    update_index(target, ENGINE, items, on_progress=lambda *counts: told.append(counts))
    assert told == [(62, 62)]
    again = build(target.path, photos)[1]
    assert (again.added, again.kept, len(again.skipped)) == (0, 60, 1) and files(target.path) == before
    # One touched, one painted over, one mended, one gone.
    touched, painted, mended, gone = (
        photos / f"class{n}" for n in ("0/00.png", "1/01.png", "1/30.jpg", "2/02.png")
    )
    os.utime(touched, ns=(1, 1))
    cv2.imwrite(str(painted), np.zeros((30, 20, 3), np.uint8))
    cv2.imwrite(str(mended), np.full((5, 5, 3), 200, np.uint8))
    gone.unlink()
    third = build(target.path, photos)[1]
    assert (third.added, third.kept, third.removed, third.skipped) == (3, 57, 0, ())
    held = content(Index(target.path))
    same = {n for n in first if first[n] == held[n]}
    assert held.keys() - first.keys() == {"class1/30.jpg"}
    assert first.keys() - same == {"class0/00.png", "class1/01.png"}
    assert held["class0/00.png"][1] == first["class0/00.png"][1]
    # What cannot be read any more goes; what is gone goes only where it is asked for.
    mended.write_bytes(b"no image")
    assert update_index(target, ENGINE, find_images(photos)).removed == 1
    assert update_index(target, ENGINE, find_images(photos), prune=True).removed == 1
    assert content(target).keys() == first.keys() - {"class2/02.png"}
    assert held["class1/01.png"][0].height == 30 and held["class1/01.png"][1] != first["class1/01.png"][1]


def test_an_image_of_another_class_keeps_its_vector(tmp_path: Path, photos: Path) -> None:
    target, _ = build(tmp_path / "index", photos)
    before = content(target)
    items = [Item(item.path, "new") for item in find_images(photos)]
    done = update_index(target, ENGINE, [*items, Item(os.path.relpath(items[0].path), "new")])
    assert (done.added, done.kept) == (0, 60)
    expected = {name: (e._replace(label="new"), v) for name, (e, v) in before.items()}
    assert content(Index(target.path)) == expected


def test_strict_stops_at_what_cannot_be_embedded_and_keeps_what_was_done(
    tmp_path: Path, photos: Path
) -> None:
    with pytest.raises(ImageError, match=r"30\.jpg"):
        build(tmp_path / "index", photos, strict=True)
    held = content(Index(tmp_path / "index"))
    images = find_images(photos)
    bad = next(at for at, item in enumerate(images) if item.path.endswith("30.jpg"))
    assert [str(photos / name) for name in held] == [item.path for item in images[:bad]]
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        update_index(Index(tmp_path / "index"), ENGINE, [Item(str(photos / "gone.png"))], strict=True)


def test_an_interrupt_keeps_what_was_done(tmp_path: Path, photos: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(update, "COMMIT_ROWS", 7)
    calm, _ = build(tmp_path / "calm", photos)

    def interrupt(done: int, total: int) -> None:
        if done == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", photos, on_progress=interrupt)
    assert len(Index(tmp_path / "index")) == 14
    target, done = build(tmp_path / "index", photos)
    assert (done.added, done.kept) == (46, 14) and content(target) == content(calm)
    assert vectors_of(target.path) == vectors_of(calm.path)


def test_an_image_elsewhere_has_its_absolute_path_for_an_id(tmp_path: Path, photos: Path) -> None:
    target, _ = build(tmp_path / "index", photos)
    elsewhere = tmp_path / "one.png"
    shutil.copy(photos / "class0" / "00.png", elsewhere)
    done = update_index(
        target, ENGINE, [Item(str(elsewhere)), Item(str(tmp_path / "photos" / ".." / "one.png"))]
    )
    assert done.added == 1 and len(target) == 61
    (first, _), (second, _) = target.search(target.get([str(elsewhere)])[1], 2)[0]
    assert [first, second] == sorted([str(elsewhere), "class0/00.png"])
    assert target.path_of(str(elsewhere)) == str(elsewhere) and target.id_of(elsewhere) == str(elsewhere)
