"""Changing the index: images are added and removed."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from simmap.engine import decompose
from simmap.engine.errors import OutputError, StoreError
from simmap.engine.files import write_bytes
from simmap.engine.images.read import format_of
from simmap.engine.index.store import Entry
from simmap.engine.urls import is_url

from .. import answers
from ..documents import WORK, Added, body, problems
from ..forms import invalid, parse, required
from ..problems import ProblemError
from ..service import Work
from .access import ServiceOf, needs
from .search import id_of, index_of

UPLOADS = "uploads"  # below the index's root: where added images lie, under the names that we give them
LONGEST_LABEL = 200
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}

router = APIRouter(tags=["index"], dependencies=[needs("change")], responses=problems(404, 409, 507, *WORK))

_LABEL: dict[str, Any] = {
    "type": "string", "minLength": 1, "maxLength": LONGEST_LABEL, "description": "its class"
}  # fmt: skip


@router.post(
    "/v1/index/images",
    status_code=201,
    response_model=Added,
    openapi_extra=body({"image": True}, {"label": _LABEL}),
)
async def add(request: Request, service: ServiceOf) -> Response:
    """Add an image to the index. The same file gets the same id."""
    async with service.work(request) as work:
        if is_url(index_of(work.opened).root):
            where = "the images of this index lie behind a URL; add this one there"
            raise ProblemError(409, "elsewhere", where)
        content = await work.body()
        return await work.run(_add, request.headers.get("content-type", ""), content)


def _add(work: Work, kind: str, content: bytes) -> Response:
    form = parse(kind, content, {"image": "image", "label": "text"})
    label = form.get("label")
    if label is not None and not (0 < len(label) <= LONGEST_LABEL and label.isprintable()):
        raise invalid("label", f"must have 1 to {LONGEST_LABEL} printable characters")
    data: bytes = required(form, "image")
    photo = work.load(data, "image")
    with work.metrics.stage("run"):
        (vector,) = work.opened.vectors([photo])
        name = _store(work, data, vector.embedding, photo.pixels.shape[:2], label)
    return answers.as_json(answers.json_bytes({"id": name}), 201)


def _store(work: Work, data: bytes, embedding: Any, size: tuple[int, ...], label: str | None) -> str:
    """Write the file, then its row; the id of both."""
    index = index_of(work.opened)
    suffix = _SUFFIXES[format_of(data, "image")]
    path = Path(index.root) / UPLOADS / (hashlib.sha256(data).hexdigest()[:32] + suffix)
    name = index.id_of(path)
    was_there = path.exists()
    try:
        path.parent.mkdir(exist_ok=True)
        if not was_there:
            write_bytes(path, data, force=True)
        status = path.stat()
        entry = Entry(name, label, size[0], size[1], status.st_size, status.st_mtime_ns)
        index.upsert([entry], decompose.unit(np.asarray(embedding))[None])
    except (OSError, OutputError, StoreError) as error:
        if not was_there:
            path.unlink(missing_ok=True)
        if _is_full(error):
            raise ProblemError(507, "full", "the server's disk is full; the image was not added") from error
        raise
    return name


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if "database or disk is full" in str(error):
            return True
        error = error.__cause__
    return False


@router.delete("/v1/index/images/{id:path}", status_code=204, response_class=Response)
async def remove(request: Request, service: ServiceOf, id: str) -> Response:
    """Remove an image from the index, and its file if a client had added it."""
    async with service.work(request) as work:
        index_of(work.opened)
        return await work.run(_remove, id_of(request, "/v1/index/images/"))


def _remove(work: Work, name: str) -> Response:
    index = index_of(work.opened)
    if not index.delete([name]):
        raise ProblemError(404, "not-found", "the index has no such image")
    path = Path(index.path_of(name))
    if path.parent == Path(index.root) / UPLOADS:
        path.unlink(missing_ok=True)
    return Response(status_code=204)
