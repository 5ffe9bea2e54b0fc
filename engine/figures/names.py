"""Names short enough for a title that still tell files apart."""

from collections.abc import Iterable
from pathlib import PurePath


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The fewest trailing parts by which all of these paths differ, by path.

    ``a/buddha/00.jpg`` and ``a/cat/00.jpg`` become ``buddha/00.jpg`` and ``cat/00.jpg``.
    """
    parts = {path: PurePath(path).parts for path in paths}
    deepest = max(map(len, parts.values()), default=1)
    for depth in range(1, deepest + 1):
        names = {path: str(PurePath(*own[-depth:])) for path, own in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {path: path for path in parts}
