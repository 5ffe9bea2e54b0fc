"""Searching the index, and the images that are found."""

import math
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import cv2
from fastapi import APIRouter, Query, Request, Response

from simmap.engine.errors import ImageError, StoreError
from simmap.engine.images.decode import load
from simmap.engine.images.resize import resize
from simmap.engine.index.explain import explain
from simmap.engine.index.search import search as search_index
from simmap.engine.index.store import VectorStore
from simmap.engine.types import Box

from .. import answers
from ..documents import WORK, Results, body, problems
from ..forms import invalid, parse, required
from ..models import Opened
from ..problems import ProblemError
from ..service import Work
from .access import ServiceOf, needs
from .images import ViewOf

MOST_REGIONS = 100
MASK_LIGHT = 128  # from which on a pixel of a mask is inside, as for ``engine.images.region.load_mask``

_FILE = {"type": "string", "format": "binary"}
router = APIRouter(tags=["search"], dependencies=[needs("search")], responses=problems(404, *WORK))

_REGIONS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
    "minItems": 1,
    "maxItems": MOST_REGIONS,
    "description": "[x, y, width, height] in pixels of the image; several add up",
}


def index_of(opened: Opened) -> VectorStore:
    """The index.

    Raises:
        ProblemError: 404, there is none.
    """
    if opened.index is None:
        raise ProblemError(404, "no-index", "this server has no index")
    return opened.index


@router.post(
    "/v1/search",
    response_model=Results,
    openapi_extra=body({"image": True, "mask": False}, {"regions": _REGIONS}),
)
async def search(
    request: Request,
    service: ServiceOf,
    k: Annotated[int, Query(ge=1, description="how many results")] = 10,
    per_class: Annotated[bool, Query(description="the best image of each of the k best classes")] = False,
    maps: Annotated[bool, Query(description="with the maps of the query and of each result")] = False,
    view: ViewOf = "contribution",
) -> Response:
    """The images of the index that are most similar to an image, or to a region of it.

    A region is a mask (an image of the same size, white inside), boxes, or both.
    """
    if k > service.settings.max_results:
        raise invalid("k", f"is {k}, must be at most {service.settings.max_results}")
    async with service.work(request) as work:
        index_of(work.opened)
        content = await work.body()
        kind = request.headers.get("content-type", "")
        return await work.run(_search, kind, content, k, per_class, maps, view)


def _search(
    work: Work, kind: str, content: bytes, k: int, per_class: bool, maps: bool, view: Any
) -> Response:
    form = parse(kind, content, {"image": "image", "mask": "image", "regions": "json"})
    boxes = _checked_boxes(form.get("regions"))
    photo = work.load(required(form, "image"), "image")
    mask = None
    if "mask" in form:
        mask = work.load(form["mask"], "mask").pixels.max(axis=2) >= MASK_LIGHT
        if mask.shape != photo.pixels.shape[:2]:
            raise invalid("mask", "must have the size of the image")
    engine, index = work.opened.engine, index_of(work.opened)
    with work.metrics.stage("run"):
        try:
            found = search_index(engine, index, [photo], k, boxes=boxes, mask=mask, per_class=per_class)
        except StoreError as error:
            if per_class and not any(label is not None for label in index.labels()):
                raise invalid("per_class", "needs an index with labels") from error
            raise
        if maps:
            found = explain(engine, found, view=view)
    with work.metrics.stage("encode"):
        return answers.as_json(answers.json_bytes(answers.hits(work.opened, found[0])))


def _checked_boxes(values: Any) -> list[Box]:
    """Boxes that are four finite numbers each.

    Raises:
        ProblemError: 422, they are not.
    """
    if values is None:
        return []
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_REGIONS:
        raise invalid("regions", f"must be 1 to {MOST_REGIONS} boxes [x, y, width, height]")
    boxes: list[Box] = []
    for one in values:
        if not isinstance(one, list) or len(one) != 4 or not all(type(n) in (int, float) for n in one):
            raise invalid("regions", "must be boxes [x, y, width, height]")
        try:
            x, y, w, h = map(float, one)
        except OverflowError as error:
            raise invalid("regions", "have numbers that are too large") from error
        if not all(map(math.isfinite, (x + w, y + h))):
            raise invalid("regions", "have numbers that are too large")
        boxes.append((x, y, w, h))
    return boxes


@router.get(
    "/v1/images/{id:path}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": _FILE}, "image/png": {"schema": _FILE}}}},
)
async def thumbnail(
    request: Request,
    service: ServiceOf,
    id: str,
    side: Annotated[int, Query(ge=16, le=2048, description="pixels of its longer side, at most")] = 256,
    lossless: Annotated[
        bool, Query(description="as PNG; up to `side` pixels, the file's own pixels")
    ] = False,
) -> Response:
    """An image of the index as JPEG or, where `lossless`, as PNG, by the id that a search gave."""
    async with service.work(request) as work:
        index_of(work.opened)
        return await work.run(_thumbnail, id_of(request, "/v1/images/"), side, ".png" if lossless else ".jpg")


def id_of(request: Request, prefix: str) -> str:
    """The id at the end of a path, byte for byte: names of files need not be UTF-8."""
    raw: bytes = request.scope["raw_path"]
    return unquote_to_bytes(raw[len(prefix) :]).decode("utf-8", "surrogateescape")


def _thumbnail(work: Work, name: str, side: int, suffix: Literal[".jpg", ".png"]) -> Response:
    index = index_of(work.opened)
    index.get([name])  # a path that is not in the index goes no further
    gone = ProblemError(404, "gone", "the file of this image cannot be read any more")
    try:
        with work.metrics.stage("decode"):
            pixels = load(index.path_of(name), max_pixels=work.opened.engine.options.max_pixels).pixels
    except ImageError as error:
        raise gone from error
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    with work.metrics.stage("encode"):
        small = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)), cv2.INTER_AREA)
        headers = {"Cache-Control": "private, max-age=300"}
        media = {".jpg": "image/jpeg", ".png": "image/png"}[suffix]
        return Response(answers.encoded(small, suffix), media_type=media, headers=headers)
