"""The maps behind a search: where each hit's score comes from."""

from collections.abc import Sequence
from dataclasses import replace

from ..engine import Engine
from ..errors import ImageError
from .search import Found, Match


def explain(engine: Engine, found: Sequence[Found]) -> list[Found]:
    """What was found, with the maps of the query and of each hit.

    The hits' photos are opened and embedded again, since an index keeps no feature maps.

    Args:
        engine: with the model that made the index.
        found: by ``search`` or ``search_embeddings``.

    Returns:
        The same searches with ``matches``; a hit whose file cannot be read any more has None.

    Raises:
        ImageError: a query cannot be read any more.
    """
    return [_explained(engine, one) for one in found]


def _explained(engine: Engine, found: Found) -> Found:
    query = None
    if found.source is not None:
        (query,) = engine.embed([found.source])
    matches: list[Match | None] = []
    for hit in found.hits:
        try:
            (image,) = engine.maps([hit.path], found.direction)
        except ImageError:
            matches.append(None)
            continue
        asked = None
        if query is not None:
            asked = query.map_against(image)
            if found.weights is not None:
                asked = asked * found.weights
        matches.append(Match(asked, image))
    return replace(found, matches=tuple(matches), geometry=None if query is None else query.geometry)
