"""Folders of images on disk: what is in them, which class each image has, which pairs to look at."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TextIO

import numpy as np

from .errors import ConfigError, printable
from .files import absolute, joined
from .urls import is_url

LabelLevel = Literal["first", "last", "path"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True)
class Item:
    """One image of a folder.

    Attributes:
        path: of the file, the folder's path included.
        label: its class, or None.
        status: bytes, and what changes with the file, where the listing of a storage has told them.
    """

    path: str
    label: str | None = None
    status: tuple[int, int] | None = None


def find_images(
    folder: str | Path,
    labels: str | Path | None = None,
    label_level: LabelLevel = "first",
    *,
    on_error: Callable[[str, ConfigError], None] | None = None,
) -> list[Item]:
    """The images of a folder and its sub-folders, sorted by their paths.

    Files count as images by their suffix; hidden files and folders are left out. What has the suffix but
    cannot be opened, such as a pipe or a broken link, is found too, and refused when it is loaded.

    Args:
        folder: where to look.
        labels: CSV file with the columns ``path`` (relative to the folder, or absolute) and ``label``; an
            image that it does not name has no label. Without it an image's label is the name of the
            sub-folder of ``folder`` that it is in, and one right in ``folder`` has none.
        label_level: which of nested sub-folders is the label: ``first``, the one right in ``folder``, as
            torchvision's ImageFolder does; ``last``, the one right above the image; or ``path``, all of them
            with slashes between.
        on_error: called with the path of each sub-folder that cannot be read, which is then left out, and
            the error; without it the first such sub-folder raises.

    Raises:
        ConfigError: there is no such folder, it cannot be read, or no image is in it; or the CSV file
            cannot be read, lacks a column, or names an image that is not in the folder.
    """
    folder = Path(folder)
    shown = printable(str(folder))
    if not _is_folder(folder):
        raise ConfigError(f"{shown}: is no folder of images")
    names = sorted(_walk(folder, set(), on_error))
    if not names:
        raise ConfigError(f"{shown}: has no images ({', '.join(sorted(SUFFIXES))})")
    if labels is None:
        return [Item(str(folder / name), label_of(name, label_level)) for name in names]
    given = read_labels(Path(labels), str(folder), {absolute(folder / name) for name in names})
    return [Item(str(folder / name), given.get(absolute(folder / name))) for name in names]


def label_of(name: PurePath, level: LabelLevel) -> str | None:
    """The label of an image by its path relative to the folder; see ``find_images``."""
    folders = name.parts[:-1]
    if not folders:
        return None
    return {"first": folders[0], "last": folders[-1], "path": "/".join(folders)}[level]


def _walk(
    root: Path, seen: set[tuple[int, int]], on_error: Callable[[str, ConfigError], None] | None
) -> Iterator[Path]:
    """Paths relative to ``root``; links to folders are followed, but never in a circle."""
    waiting = [Path()]
    while waiting:
        below = waiting.pop()
        folder = root / below
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            refusal = ConfigError(
                f"{printable(str(folder))}: cannot be read ({error.strerror}); "
                "give this user the permission to read it"
            )
            if on_error is None or folder == root:
                raise refusal from None
            on_error(str(folder), refusal)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                waiting.append(below / entry.name)
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                yield below / entry.name


def _is_folder(path: "Path | os.DirEntry[str]") -> bool:
    """False too for a link to itself, and for what lies in a folder that may not be entered."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_labels(path: Path, folder: str, known: set[str]) -> dict[str, str]:
    """Labels by whole paths, from a CSV file as for ``find_images``.

    Args:
        path: the file.
        folder: path or URL that its paths are relative to.
        known: whole paths of the images that it may name.

    Raises:
        ConfigError: it cannot be read, lacks a column, or names another image.
    """
    labels = {}
    for line, row in rows(path, ("path", "label")):
        name = row["path"]
        image = joined(folder, name)
        if not is_url(image):
            image = absolute(image)
        if image not in known:
            raise ConfigError(
                f"{path}: line {line} names {printable(name)}, which is no image in {printable(folder)}"
            )
        if row["label"]:
            labels[image] = row["label"]
    return labels


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Pairs of images from a CSV file with the columns ``a`` and ``b``, paths relative to the file.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or has no pairs.
    """
    path = Path(path)
    pairs = [(str(path.parent / row["a"]), str(path.parent / row["b"])) for _, row in rows(path, ("a", "b"))]
    if not pairs:
        raise ConfigError(f"{path}: has no pairs; give one a line, below the header a,b")
    return pairs


def rows(
    path: str | Path, columns: Sequence[str], optional: Sequence[str] = (), text: TextIO | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and wanted columns of each row of a CSV file with a header.

    Args:
        path: of the file.
        columns: that it must have.
        optional: that it may have.
        text: what it holds, where it has been read already.

    Raises:
        ConfigError: it cannot be read, or lacks a column.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") if text is None else text as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(
                    f"{path}: lacks the column {missing[0]!r}; its first line must name {','.join(columns)}"
                )
            wanted = [*columns, *(name for name in optional if name in (reader.fieldnames or ()))]
            for row in reader:
                if any(row[name] is None for name in wanted):
                    raise ConfigError(f"{path}: line {reader.line_num} has too few columns")
                yield reader.line_num, {name: row[name].strip() for name in wanted}
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV: {error}") from error


def sample_pairs(items: Sequence[Item], count: int, *, seed: int) -> list[tuple[str, str]]:
    """Paths of ``count`` different pairs of images of the same class, or of all pairs if there are fewer.

    Every pair is as likely as any other; the same items and seed give the same pairs.

    Raises:
        ConfigError: ``count`` is below 1, or no class has two images.
    """
    if count < 1:
        raise ConfigError(f"the number of pairs is {count}, must be 1 or more")
    classes: dict[str, list[str]] = {}
    for item in items:
        if item.label is not None:
            classes.setdefault(item.label, []).append(item.path)
    members = [classes[label] for label in sorted(classes)]
    sizes = [len(paths) * (len(paths) - 1) // 2 for paths in members]
    ends = np.cumsum(sizes, dtype=np.int64)
    if not members or ends[-1] == 0:
        raise ConfigError("no class has two images; put the images into one sub-folder a class")
    total = int(ends[-1])
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    pairs = []
    for number in chosen.tolist():
        at = int(np.searchsorted(ends, number, side="right"))
        rest, first, paths = number - (int(ends[at]) - sizes[at]), 0, members[at]
        while rest >= len(paths) - 1 - first:
            rest -= len(paths) - 1 - first
            first += 1
        pairs.append((paths[first], paths[first + 1 + rest]))
    return pairs


def with_distractors(
    items: Sequence[Item], pairs: Sequence[tuple[str, str]], *, seed: int = 0
) -> list[tuple[str, str, str]]:
    """Each pair of a class with an image of another class, drawn by ``seed``.

    Args:
        items: images with labels; those without one are never drawn.
        pairs: of images among them, as ``sample_pairs`` draws them.
        seed: of the draw.

    Returns:
        The paths of each pair and of its distractor; none where all images have one class.
    """
    label_of = {item.path: item.label for item in items if item.label is not None}
    if len(set(label_of.values())) < 2:
        return []
    rng = np.random.default_rng(seed)
    triples = []
    for first, second in pairs:
        others = [path for path, label in label_of.items() if label != label_of[first]]
        triples.append((first, second, others[int(rng.integers(len(others)))]))
    return triples
