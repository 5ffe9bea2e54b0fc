"""What an index is built from: a folder, a glob or a list of images, on disk or behind a URL."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .dataset import SUFFIXES, Item, LabelLevel, find_images, label_of, read_labels, rows
from .errors import ConfigError, printable
from .files import absolute, joined
from .urls import find_urls, is_url, read_url, url_status

_LISTS = (".csv", ".parquet")
_REQUESTS = 32  # at a time, to storages that are asked for each image


@dataclass(frozen=True)
class Listing:
    """Images, and what their names are relative to.

    Attributes:
        root: a folder or a URL.
        items: the images, sorted by their paths; those of a list in its order.
    """

    root: str
    items: list[Item]


def list_source(
    source: str,
    labels: str | Path | None = None,
    label_level: LabelLevel = "first",
    *,
    on_error: Callable[[str, ConfigError], None] | None = None,
) -> Listing:
    """The images that ``source`` names.

    Args:
        source: a folder or its URL; a glob, where ``*`` and ``?`` stand for any characters of one name and
            ``**`` for any folders; or a CSV or Parquet file with the columns ``path`` (a URL, or relative to
            the file) and, if it likes, ``label``.
        labels, label_level, on_error: as for ``find_images``, of folders and globs. The root of a glob is
            the folder above its first wildcard.

    Raises:
        ConfigError: there is no such source, it cannot be read, or it names no image; or as for
            ``find_images``.
        StorageError: the storage of a URL cannot be reached.
    """
    if is_list(source):
        if labels is not None:
            raise ConfigError(
                f"{printable(source)}: is a list of images; put the labels into its column 'label'"
            )
        return _read_list(source)
    pattern = None
    root = source
    if is_glob(source):
        at = re.search(r"[*?\[]", source)
        assert at is not None
        head = source[: at.start()].rpartition("/")
        root, pattern = head[0] or ("/" if head[1] else "."), source[len(head[0]) + len(head[1]) :]
    if is_url(root):
        items = _find_urls(root, labels, label_level)
    else:
        items = find_images(root, labels, label_level, on_error=on_error)
    if pattern is not None:
        wanted, start = _matcher(pattern), len(absolute(root).rstrip("/")) + 1
        items = [item for item in items if wanted(absolute(item.path)[start:])]
        if not items:
            raise ConfigError(f"{printable(source)}: matches no image ({', '.join(sorted(SUFFIXES))})")
    return Listing(root, items)


def is_list(source: str) -> bool:
    """Whether a name is that of a list of images."""
    return source.lower().endswith(_LISTS) and not Path(source).is_dir()


def is_glob(source: str) -> bool:
    """Whether a name has wildcards; a folder or file of just that name is none."""
    if is_url(source):
        return "*" in source or "[" in source
    return re.search(r"[*?\[]", source) is not None and not Path(source).exists()


def names_one(source: str) -> bool:
    """Whether a name is that of a single image, or of nothing, rather than a source of images."""
    if is_url(source):
        return PurePosixPath(source).suffix.lower() in SUFFIXES and not is_glob(source)
    return not (is_list(source) or is_glob(source) or Path(source).is_dir())


def _matcher(pattern: str) -> Callable[[str], object]:
    """What a glob means, on a path relative to its root."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def translated(part: str) -> str:
        if part.startswith("[") and part.endswith("]"):
            negated = part.startswith("[!")
            inside = part[1 + negated : -1].replace("\\", "\\\\").replace("^", "\\^").replace("[", "\\[")
            return f"[{'^' * negated}{inside}]"
        return meaning.get(part) or re.escape(part)

    try:
        return re.compile("".join(map(translated, parts)), re.DOTALL).fullmatch
    except re.error as error:
        raise ConfigError(f"{printable(pattern)}: is no glob ({error})") from error


def _find_urls(root: str, labels: str | Path | None, level: LabelLevel) -> list[Item]:
    root = absolute(root)
    try:
        found = sorted(find_urls(root), key=lambda one: one[0])
    except FileNotFoundError as error:
        raise ConfigError(f"{printable(root)}: there is no such folder of images") from error
    items = []
    for name, status in found:
        path = PurePosixPath(name)
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts):
            items.append(Item(f"{root}/{name}", label_of(path, level), status))
    if not items:
        raise ConfigError(f"{printable(root)}: has no images ({', '.join(sorted(SUFFIXES))})")
    items = _with_statuses(items)
    if labels is None:
        return items
    given = read_labels(Path(labels), root, {item.path for item in items})
    return [replace(item, label=given.get(item.path)) for item in items]


def _read_list(source: str) -> Listing:
    shown = printable(source)
    folder = source.rpartition("/")[0] if is_url(source) else str(Path(source).parent)
    read = _parquet_rows if source.lower().endswith(".parquet") else _csv_rows
    items = [Item(joined(folder, path), label or None) for path, label in read(source, shown)]
    if not items:
        raise ConfigError(f"{shown}: names no image; give one a line, below the header path,label")
    return Listing(folder, _with_statuses(items))


def _with_statuses(items: list[Item]) -> list[Item]:
    """Ask for what listings do not tell."""
    if all(item.status is not None or not is_url(item.path) for item in items):
        return items
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(_with_status, items))


def _with_status(item: Item) -> Item:
    if item.status is None and is_url(item.path):
        try:
            return replace(item, status=url_status(item.path))
        except FileNotFoundError:
            pass  # said when it is to be embedded
    return item


def _csv_rows(source: str, shown: str) -> Iterator[tuple[str, str | None]]:
    stream = io.StringIO(_decoded(_bytes(source, shown), shown), newline="") if is_url(source) else None
    for line, row in rows(source, ("path",), ("label",), stream):
        if not row["path"]:
            raise ConfigError(f"{shown}: line {line} has an empty path")
        yield row["path"], row.get("label")


def _decoded(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: cannot be read as CSV: {error}") from error


def _parquet_rows(source: str, shown: str) -> Iterable[tuple[str, str | None]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{shown}: Parquet is read by pyarrow; run: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(_bytes(source, shown)))
        names = file.schema_arrow.names
        if "path" not in names:
            raise ConfigError(f"{shown}: lacks the column 'path'")
        table: list[dict[str, Any]] = file.read([n for n in ("path", "label") if n in names]).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{shown}: cannot be read as Parquet: {' '.join(str(error).split())}") from error
    for at, row in enumerate(table):
        path, label = row["path"], row.get("label")
        if not isinstance(path, str) or not path:
            raise ConfigError(f"{shown}: row {at} has no text in the column 'path'")
        if label is not None and not isinstance(label, str):
            raise ConfigError(f"{shown}: row {at} has a label that is no text; cast the column to string")
    return [(row["path"], row.get("label")) for row in table]


def _bytes(source: str, shown: str) -> bytes:
    try:
        return read_url(source, shown) if is_url(source) else Path(source).read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{shown}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror or error}") from error
