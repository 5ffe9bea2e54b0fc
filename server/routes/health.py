"""What the server is: alive, ready, how busy, and with which model; and opening the model anew."""

import asyncio
import logging

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from simmap.engine.errors import SimmapError

from .. import answers
from ..documents import About, State, problems
from ..problems import ProblemError
from ..service import Service
from .access import ServiceOf, needs

log = logging.getLogger("simmap.server")

router = APIRouter(tags=["server"])


@router.get("/healthz", response_model=State)
async def healthz() -> Response:
    """Whether the server lives."""
    return answers.as_json(b'{"status":"alive"}')


@router.get("/readyz", response_model=State, responses=problems(503))
async def readyz(service: ServiceOf) -> Response:
    """Whether it takes requests: not while it stops."""
    if service.draining:
        raise ProblemError(503, "stopping", "the server stops")
    return answers.as_json(b'{"status":"ready"}')


@router.get("/metrics", response_class=Response, dependencies=[needs(None)], responses=problems())
async def metrics(service: ServiceOf) -> Response:
    """What Prometheus reads; needs any key, where there are keys."""
    index = service.models.current.index
    if index is not None:
        try:
            service.metrics.index_images.set(await asyncio.to_thread(len, index))
        except SimmapError as error:  # the other figures count all the more
            log.error("index", extra={"fields": {"error": str(error)}})
            service.metrics.index_images.set(float("nan"))
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/model", response_model=About, dependencies=[needs("read")], responses=problems())
async def model(service: ServiceOf) -> Response:
    """The model, the index, and the limits of requests."""
    opened, settings = service.models.current, service.settings
    return answers.as_json(
        answers.json_bytes(
            {
                "model": opened.about(),
                "index": None
                if opened.index is None
                else {"images": await asyncio.to_thread(len, opened.index)},
                "limits": {
                    "max_bytes": settings.max_bytes,
                    "max_pixels": settings.max_pixels,
                    "max_results": settings.max_results,
                },
            }
        )
    )


@router.post("/v1/admin/reload", response_model=State, dependencies=[needs("admin")], responses=problems(409))
async def reload(service: ServiceOf) -> Response:
    """Open model and index anew, verify them, and use them from then on; as SIGHUP does."""
    if not await reload_logged(service):
        raise ProblemError(
            409, "reload", "the new model or index cannot be used, the old one stays; see the log"
        )
    return answers.as_json(b'{"status":"ready"}')


async def reload_logged(service: Service) -> bool:
    """Reload beside the requests; whether it was done."""
    try:
        await asyncio.to_thread(service.reload)
    except SimmapError as error:
        log.error("reload refused", extra={"fields": {"error": str(error)}})
        return False
    log.info("reloaded", extra={"fields": service.models.current.about()})
    return True
