"""The Open Inference Protocol, version 2: the models ``embed`` and ``compare`` for clients that speak it."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from simmap.engine.images.photo import Source
from simmap.engine.types import Array

from .. import answers, tensors
from ..documents import WORK, problems
from ..forms import invalid
from ..models import Opened
from ..problems import ProblemError
from ..service import Work
from .access import ServiceOf, needs

VERSION = "1"
MOST_IMAGES = 32  # of one request

router = APIRouter(prefix="/v2", tags=["inference protocol"], responses=problems())
_read = [needs("read")]
_INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "object"}} for kind in ("application/json", "application/octet-stream")
        },
    }
}


def _tensor(name: str, kind: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": list(shape)}


def _described(opened: Opened, name: str) -> dict[str, Any]:
    """The metadata of a model.

    Raises:
        ProblemError: 404, there is none of this name.
    """
    contract = opened.engine.contract
    if name == "embed":
        inputs = [_tensor("image", "BYTES", -1)]
        outputs = [_tensor("embedding", "FP32", -1, contract.dimension)]
    elif name == "compare":
        inputs = [_tensor("a", "BYTES", 1), _tensor("b", "BYTES", 1)]
        outputs = [_tensor("score", "FP32", 1), _tensor("residuals", "FP32", 2)]
        grid = contract.grid_height, contract.grid_width
        outputs += [_tensor(f"{kind}_{of}", "FP32", *grid) for kind in ("map", "influence") for of in "ab"]
    else:
        raise ProblemError(404, "not-found", "the models are embed and compare")
    return {"name": name, "versions": [VERSION], "platform": "simmap", "inputs": inputs, "outputs": outputs}


def _check_version(version: str) -> None:
    if version != VERSION:
        raise ProblemError(404, "not-found", f"the only version is {VERSION}")


@router.get("")
async def server() -> Response:
    """Name and extensions of the server."""
    about = {"name": "simmap", "version": VERSION, "extensions": ["binary_tensor_data"]}
    return answers.as_json(answers.json_bytes(about))


@router.get("/health/live", response_class=Response)
async def live() -> Response:
    """Whether the server lives."""
    return Response()


@router.get("/health/ready", response_class=Response, responses=problems(503))
async def ready(service: ServiceOf) -> Response:
    """Whether the server takes requests."""
    return Response(status_code=503 if service.draining else 200)


@router.get("/models/{name}", dependencies=_read, responses=problems(404))
async def model(service: ServiceOf, name: str) -> Response:
    """Inputs and outputs of a model."""
    return answers.as_json(answers.json_bytes(_described(service.models.current, name)))


@router.get("/models/{name}/versions/{version}", dependencies=_read, responses=problems(404))
async def model_version(service: ServiceOf, name: str, version: str) -> Response:
    """The same of a version."""
    _check_version(version)
    return await model(service, name)


@router.get("/models/{name}/ready", response_class=Response, dependencies=_read, responses=problems(404, 503))
async def model_ready(service: ServiceOf, name: str) -> Response:
    """Whether a model takes requests."""
    _described(service.models.current, name)
    return await ready(service)


@router.get(
    "/models/{name}/versions/{version}/ready",
    response_class=Response,
    dependencies=_read,
    responses=problems(404, 503),
)
async def version_ready(service: ServiceOf, name: str, version: str) -> Response:
    """The same of a version."""
    _check_version(version)
    return await model_ready(service, name)


@router.post("/models/{name}/infer", dependencies=_read, openapi_extra=_INFER, responses=problems(404, *WORK))
async def infer(request: Request, service: ServiceOf, name: str) -> Response:
    """Run a model on images: BYTES [n] holds files, UINT8 [height, width, 3] one image in RGB."""
    _described(service.models.current, name)
    async with service.work(request) as work:
        body = await work.body()
        return await work.run(_infer, name, body, request.headers.get(tensors.LENGTH_HEADER))


@router.post(
    "/models/{name}/versions/{version}/infer",
    dependencies=_read, openapi_extra=_INFER, responses=problems(404, *WORK),
)  # fmt: skip
async def infer_version(request: Request, service: ServiceOf, name: str, version: str) -> Response:
    """The same of a version."""
    _check_version(version)
    return await infer(request, service, name)


def _infer(work: Work, name: str, body: bytes, header_length: str | None) -> Response:
    request = tensors.read(body, header_length)
    wanted = {"embed": {"image"}, "compare": {"a", "b"}}[name]
    if set(request.inputs) != wanted:
        raise invalid("inputs", f"must be {' and '.join(sorted(wanted))}")
    outputs = _embed(work, request.inputs["image"]) if name == "embed" else _compare(work, request.inputs)
    with work.metrics.stage("encode"):
        content, headers = tensors.write(name, request, outputs)
    return Response(content, headers=headers)


def _embed(work: Work, images: list[Source]) -> dict[str, Array]:
    if not 1 <= len(images) <= MOST_IMAGES:
        raise invalid("image", f"must hold 1 to {MOST_IMAGES} images")
    photos = [_photo(work, image, "image") for image in images]
    with work.metrics.stage("run"):
        return {"embedding": np.array([one.embedding for one in work.opened.vectors(photos)])}


def _compare(work: Work, inputs: dict[str, list[Source]]) -> dict[str, Array]:
    for name, images in inputs.items():
        if len(images) != 1:
            raise invalid(name, "must hold one image")
    photos = [_photo(work, inputs[name][0], name) for name in ("a", "b")]
    with work.metrics.stage("run"):
        pair = work.opened.compare(*photos)
        return {
            "score": np.array([pair.score]),
            "residuals": np.array(pair.residuals),
            "map_a": pair.maps[0],
            "map_b": pair.maps[1],
            "influence_a": pair.influence[0],
            "influence_b": pair.influence[1],
        }


def _photo(work: Work, source: Source, name: str) -> Source:
    """Arrays are within the limit of a body already."""
    return work.load(source, name) if isinstance(source, bytes) else source
