"""Images that clients send: compare two, embed one, map one against vectors."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from simmap.engine.decompose import View
from simmap.engine.figures.pair import PairFigure
from simmap.engine.types import Array

from .. import answers
from ..documents import WORK, Comparison, Embedding, Maps, body, problems
from ..forms import invalid, parse, required
from ..service import Work
from .access import ServiceOf, needs

MOST_VECTORS = 256

router = APIRouter(tags=["images"], dependencies=[needs("read")], responses=problems(*WORK))

_VECTORS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 1},
    "minItems": 1,
    "maxItems": MOST_VECTORS,
    "description": "embeddings (n, D) by the same model, of any length",
    "x-required": True,
}
ViewOf = Annotated[View, Query(description="what maps show: contributions to the score, or influence on it")]


@router.post(
    "/v1/compare",
    response_model=Comparison,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
    openapi_extra=body({"a": True, "b": True}),
)
async def compare(
    request: Request,
    service: ServiceOf,
    points: Annotated[bool, Query(description="also what each pair of places adds together")] = False,
    view: ViewOf = "contribution",
) -> Response:
    """The cosine of two images and its maps, or with `Accept: image/png` the picture of `view`."""
    async with service.work(request) as work:
        content, picture = await work.body(), answers.wants_picture(request)
        kind = request.headers.get("content-type", "")
        return await work.run(_compare, kind, content, points, view, picture)


def _compare(work: Work, kind: str, content: bytes, points: bool, view: View, picture: bool) -> Response:
    form = parse(kind, content, {"a": "image", "b": "image"})
    photos = [work.load(required(form, name), name) for name in ("a", "b")]
    with work.metrics.stage("run"):
        pair = work.opened.compare(*photos)
    with work.metrics.stage("encode"):
        if picture:
            figure = PairFigure(pair, options=work.opened.engine.options, view=view)
            return Response(answers.encoded(figure.picture(), ".png"), media_type="image/png")
        data = answers.comparison(work.opened, pair, points=points)
        return answers.as_json(answers.json_bytes(data))


@router.post("/v1/embed", response_model=Embedding, openapi_extra=body({"image": True}))
async def embed(request: Request, service: ServiceOf) -> Response:
    """The embedding of an image."""
    async with service.work(request) as work:
        content = await work.body()
        return await work.run(_embed, request.headers.get("content-type", ""), content)


def _embed(work: Work, kind: str, content: bytes) -> Response:
    form = parse(kind, content, {"image": "image"})
    photo = work.load(required(form, "image"), "image")
    with work.metrics.stage("run"):
        (vector,) = work.opened.vectors([photo])
    with work.metrics.stage("encode"):
        data = {
            "embedding": vector.embedding.tolist(),
            "image": answers.size(vector.geometry),
            "model": work.opened.about(),
        }
        return answers.as_json(answers.json_bytes(data))


@router.post("/v1/maps", response_model=Maps, openapi_extra=body({"image": True}, {"vectors": _VECTORS}))
async def maps(request: Request, service: ServiceOf, view: ViewOf = "contribution") -> Response:
    """What each place of an image adds to its cosine with each of some vectors."""
    async with service.work(request) as work:
        content = await work.body()
        return await work.run(_maps, request.headers.get("content-type", ""), content, view)


def _maps(work: Work, kind: str, content: bytes, view: View) -> Response:
    form = parse(kind, content, {"image": "image", "vectors": "json"})
    vectors = _checked_vectors(required(form, "vectors"), work.opened.engine.contract.dimension)
    photo = work.load(required(form, "image"), "image")
    with work.metrics.stage("run"):
        (image,) = work.opened.embed([photo])
        data = answers.maps(work.opened, image, vectors, view)
    with work.metrics.stage("encode"):
        return answers.as_json(answers.json_bytes(data))


def _checked_vectors(values: Any, dimension: int) -> Array:
    """(n, D) float32.

    Raises:
        ProblemError: 422, they are no such array, or one has no direction.
    """
    rule = f"must be 1 to {MOST_VECTORS} lists of {dimension} numbers"
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_VECTORS:
        raise invalid("vectors", rule)
    for row in values:
        if (
            not isinstance(row, list)
            or len(row) != dimension
            or not all(type(n) in (int, float) for n in row)
        ):
            raise invalid("vectors", rule)
    try:
        with np.errstate(over="ignore"):
            vectors = np.array(values, np.float64).astype(np.float32)
    except OverflowError as error:  # whole numbers of hundreds of digits
        raise invalid("vectors", "have numbers that are too large") from error
    norms = np.linalg.norm(vectors, axis=1)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise invalid("vectors", "have a vector that is zero or too large, so that it has no direction")
    return vectors
