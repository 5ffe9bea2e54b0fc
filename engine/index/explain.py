"""The maps behind a search: where each hit's score comes from."""

from collections.abc import Sequence
from dataclasses import replace

from .. import decompose
from ..decompose import View
from ..engine import Engine
from ..errors import ImageError
from .search import Found, Match


def explain(engine: Engine, found: Sequence[Found], *, view: View = "contribution") -> list[Found]:
    """What was found, with the maps of the query and of each hit.

    The hits' photos are opened and embedded again, since an index keeps no feature maps.

    Args:
        engine: with the model that made the index.
        found: by ``search`` or ``search_embeddings``.
        view: what the maps show: contributions to the score that ranks, or influence on it; this takes
            another run of the network for each hit.

    Returns:
        The same searches with ``matches``; a hit whose file cannot be read any more has None.

    Raises:
        ImageError: a query cannot be read any more.
    """
    return [_explained(engine, one, view) for one in found]


def _explained(engine: Engine, found: Found, view: View) -> Found:
    query = None
    if found.source is not None:
        (query,) = engine.embed([found.source])
    matches: list[Match | None] = []
    for hit in found.hits:
        try:
            direction = found.direction
            if view == "influence":
                (vector,) = engine.vectors([hit.path])
                direction = decompose.influence_direction(vector.embedding, direction)
            (image,) = engine.maps([hit.path], direction)
        except ImageError:
            matches.append(None)
            continue
        asked = None
        if query is not None:
            asked = query.map_against(image, view)
            if found.weights is not None:
                asked = asked * found.weights
        matches.append(Match(asked, image))
    geometry = None if query is None else query.geometry
    return replace(found, matches=tuple(matches), geometry=geometry, view=view)
