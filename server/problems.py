"""Errors as ``application/problem+json`` (RFC 9457): what is wrong, by the field, without our paths."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response

from simmap.engine.errors import DecompositionError, ImageError, SimmapError
from simmap.engine.index.store import MissingImageError

log = logging.getLogger("simmap.server")

MEDIA_TYPE = "application/problem+json"
CLIENT_LEFT = 499  # as nginx's log has it; nobody reads this answer


class ProblemError(Exception):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        kind: a word that programs can compare, the end of ``type``.
        detail: one sentence for the client.
        field: of the request that is at fault, or None.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.field, self.headers = field, dict(headers or {})


def problem_of(error: Exception) -> ProblemError:
    """What a client is told of an error of the engine; what only the operator can mend goes to the log."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ImageError):
        name = str(error).partition(":")[0]
        return ProblemError(422, "image", str(error), name if name.isidentifier() else None)
    if isinstance(error, DecompositionError):
        return ProblemError(422, "vector", str(error))
    if isinstance(error, MissingImageError):
        return ProblemError(404, "not-found", "the index has no such image")
    log.error("failed", extra={"fields": {"error": f"{type(error).__name__}: {error}"}})
    if isinstance(error, SimmapError):
        return ProblemError(
            503, "unavailable", "the model or the index cannot be used now; the server's log has more"
        )
    if isinstance(error, MemoryError):
        return ProblemError(503, "memory", "there is not enough memory for this request; send smaller images")
    raise error


def answer(problem: ProblemError, request: Request) -> Response:
    """The response of a problem; clients of the Open Inference Protocol read its ``error``."""
    content: dict[str, Any] = {
        "type": f"urn:simmap:problem:{problem.kind}",
        "title": _title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request.scope.get("state", {}).get("request_id"),
    }
    if problem.field is not None:
        content["field"] = problem.field
    if request.url.path.startswith("/v2"):
        content["error"] = problem.detail
    request.scope.setdefault("state", {})["problem"] = problem
    return Response(json.dumps(content), problem.status, problem.headers, MEDIA_TYPE)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"
