"""What a command may write: refused before any work is done for it, and never an input."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from simmap.engine.errors import OutputError, StoreError, printable
from simmap.engine.files import check_output

if TYPE_CHECKING:
    from simmap.engine.index.store import VectorStore


def check_picture(path: str, *, force: bool) -> Path:
    """The picture's path, if it can be written.

    Raises:
        OutputError: its suffix is no format of pictures, or as for ``files.check_output``.
    """
    from simmap.engine.figures.files import check_format

    checked = check_output(path, force=force)
    check_format(checked)
    return checked


def check_not_inputs(
    outputs: Iterable[Path | None],
    inputs: Iterable[str | Path | None],
    *,
    index: "VectorStore | None" = None,
) -> None:
    """Refuse, ``--force`` or not, an output that is an input, and two outputs that are one file.

    Args:
        outputs: files to be written, with None for those that are not asked for.
        inputs: files that the command reads, likewise.
        index: that the command reads: neither a file in its folder nor an image of it is an output.

    Raises:
        OutputError: naming the output.
    """
    wanted = [path for path in outputs if path is not None]
    places = [_place(path) for path in wanted]
    for at, (path, place) in enumerate(zip(wanted, places, strict=True)):
        if place in places[:at] or any(_is_same(path, other) for other in wanted[:at]):
            raise OutputError(f"{printable(str(path))}: two outputs would be this file; give each its own")
        for other in inputs if path.exists() else ():
            if other is not None and _is_same(path, other):
                raise OutputError(f"{printable(str(path))}: is an input; give another output")
        if index is None:
            continue
        folder = getattr(index, "path", None)  # an embedded one has a folder
        if folder is not None and place.is_relative_to(folder.resolve()):
            raise OutputError(f"{printable(str(path))}: is inside the index; give another output")
        try:
            index.get([index.id_of(path)])
        except StoreError:
            continue
        raise OutputError(f"{printable(str(path))}: is an image of the index; give another output")


def _place(path: Path) -> Path:
    """Where a file that need not exist lies, links of folders followed."""
    return path.parent.resolve() / path.name


def _is_same(path: Path, other: str | Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False
