"""Names short enough for a title that still tell files apart."""

from collections.abc import Iterable
from pathlib import PurePath


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Folder and name of each path, or as many trailing parts more as tell all of them apart.

    ``photos/buddha/00.jpg`` becomes ``buddha/00.jpg``, since a number alone says little and the folder
    is often the class.
    """
    parts = {path: PurePath(path).parts for path in paths}
    deepest = max(map(len, parts.values()), default=1)
    for depth in range(2, max(deepest, 2) + 1):
        names = {path: str(PurePath(*own[-depth:])) for path, own in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {path: path for path in parts}
