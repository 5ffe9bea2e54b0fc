"""What the engine gives, as the plain data of answers."""

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import orjson
from fastapi import Request, Response

from simmap.engine import decompose
from simmap.engine.images.geometry import Geometry
from simmap.engine.index.search import Found, Match
from simmap.engine.results import Embedded, Pair
from simmap.engine.types import Array, Pixels

from .models import Opened

Grid = dict[str, float]


def grid(geometry: Geometry, rows: int, columns: int) -> Grid:
    """The cells of a map, and the rectangle of the photo's own pixels that they share."""
    x0, y0, x1, y1 = geometry.field
    return {"rows": rows, "columns": columns, "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}


def size(geometry: Geometry) -> dict[str, int]:
    """Of a photo, EXIF orientation applied."""
    return {"height": geometry.photo_height, "width": geometry.photo_width}


def grid_of(image: Embedded) -> Grid:
    """The cells of an image's maps."""
    return grid(image.geometry, *image.parts.shape[:2])


def comparison(opened: Opened, pair: Pair, *, points: bool) -> dict[str, Any]:
    """Score, residuals, maps and influence, as ``simmap compare --json``; with ``points`` the point maps of
    all places, (places of the first, places of the second), row by row."""
    data: dict[str, Any] = {
        "score": pair.score,
        "residuals": list(pair.residuals),
        "maps": [values.tolist() for values in pair.maps],
        "influence": [values.tolist() for values in pair.influence],
        "grids": [grid_of(image) for image in pair.images],
        "images": [size(image.geometry) for image in pair.images],
        "model": opened.about(),
    }
    if points:
        data["points"] = _points(*pair.images).tolist()
    return data


def _points(first: Embedded, second: Embedded) -> Array:
    """``P[x, y]`` of all places (see ``decompose.point_map``)."""
    dimension = first.embedding.size
    here = first.parts.reshape(-1, dimension) / np.linalg.norm(first.embedding)
    there = second.parts.reshape(-1, dimension) / np.linalg.norm(second.embedding)
    return np.asarray(here @ there.T)


def maps(opened: Opened, image: Embedded, vectors: Array, view: decompose.View) -> dict[str, Any]:
    """The maps of an image against vectors (n, D)."""
    units = decompose.unit(vectors, name="a vector")
    directions = units
    if view == "influence":
        directions = decompose.influence_direction(np.broadcast_to(image.embedding, units.shape), units)
    found = decompose.direction_map(image.parts, image.embedding, directions)
    return {
        "scores": (units @ decompose.unit(image.embedding)).tolist(),
        "residuals": [decompose.residual(image.rest, image.embedding, one) for one in units],
        "maps": found.tolist(),
        "view": view,
        "grid": grid_of(image),
        "image": size(image.geometry),
        "model": opened.about(),
    }


def hits(opened: Opened, found: Found) -> dict[str, Any]:
    """What a search found, with maps where there are any."""
    assert opened.index is not None
    matches: Sequence[Match | None] = found.matches or [None] * len(found.hits)
    results = []
    for hit, match in zip(found.hits, matches, strict=True):
        one: dict[str, Any] = {
            "rank": hit.rank,
            "id": opened.index.id_of(hit.path),
            "label": hit.label,
            "score": hit.score,
            "region_score": hit.region_score,
        }
        if found.matches is not None:
            one |= _match(match)
        results.append(one)
    return {
        "hits": results,
        "weights": None if found.weights is None else found.weights.tolist(),
        "view": found.view,
        "model": opened.about(),
    }


def _match(match: Match | None) -> dict[str, Any]:
    """The maps of a hit; null where its photo cannot be read any more."""
    if match is None:
        return {"query_map": None, "map": None, "grid": None, "image": None}
    values = match.hit.map
    return {
        "query_map": None if match.query is None else match.query.tolist(),
        "map": values.tolist(),
        "grid": grid(match.hit.geometry, *values.shape),
        "image": size(match.hit.geometry),
    }


def json_bytes(data: Any) -> bytes:
    """Compact JSON."""
    try:
        return orjson.dumps(data)  # the many numbers of maps take ``json`` twenty times as long
    except TypeError:  # names of files that are not UTF-8 hold halves of surrogate pairs
        return json.dumps(data, separators=(",", ":")).encode()


def encoded(pixels: Pixels, suffix: str) -> bytes:
    """uint8 RGB (h, w, 3) as PNG or JPEG."""
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def as_json(content: bytes, status: int = 200) -> Response:
    """An answer of ready JSON."""
    return Response(content, status, media_type="application/json")


def wants_picture(request: Request) -> bool:
    """Whether the client takes a PNG before JSON."""
    for one in request.headers.get("accept", "").split(","):
        kind = one.partition(";")[0].strip().lower()
        if kind in ("application/json", "application/*", "*/*"):
            return False
        if kind in ("image/png", "image/*"):
            return True
    return False
