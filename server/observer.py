"""Around every request: its id, its headers, its line in the log, its place in the metrics."""

import asyncio
import logging
import re
import secrets
import time
from contextlib import suppress
from typing import Any

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import ProblemError, answer
from .security import ANSWER_HEADERS, PAGE_HEADERS, check_request
from .service import Service

log = logging.getLogger("simmap.server")

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = ("/healthz", "/readyz", "/metrics")
_PAGE, _ANSWER = (
    [(name.lower().encode(), value.encode()) for name, value in given.items()]
    for given in (PAGE_HEADERS, ANSWER_HEADERS)
)
_DRAIN_SECONDS = 1.0  # for a refused body, so that its client reads the answer and not a reset


class Observer:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and observe it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started = MutableHeaders(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        state: dict[str, Any] = scope.setdefault("state", {})
        request_id = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        state["request_id"] = request_id
        headers["x-request-id"] = request_id  # for tracers, which stand between this and the routes
        seen: dict[str, int] = {"status": 0, "bytes": 0}
        arriving = "content-length" in headers or "transfer-encoding" in headers

        async def received() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = arriving and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def drain() -> None:
            # Where the connection will close: a reset would take the answer from a client that still sends.
            if headers.get("connection", "").lower() != "close" or "expect" in headers:
                return
            size, limit = 0, self._service.settings.max_bytes
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while arriving and size < limit:
                        size += len((await received()).get("body", b""))

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                self._add_headers(scope, MutableHeaders(raw=message["headers"]))
                if seen["status"] >= 400:
                    await drain()
            else:
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            try:
                check_request(scope["method"], headers)
            except ProblemError as problem:
                await answer(problem, Request(scope))(scope, received, observed)
            else:
                await self._app(scope, received, observed)
        except Exception:  # answered already; raised again for whoever stands around the application
            log.exception("crashed", extra={"fields": {"request_id": state["request_id"]}})
        finally:
            self._report(scope, seen, time.perf_counter() - started)

    def _add_headers(self, scope: Scope, headers: MutableHeaders) -> None:
        page = _route(scope) == "page"
        headers["X-Request-ID"] = scope["state"]["request_id"]
        headers.raw.extend(_PAGE if page else _ANSWER)
        if not page:
            headers.setdefault("Cache-Control", "no-store")
        if self._service.draining:
            headers["Connection"] = "close"

    def _report(self, scope: Scope, seen: dict[str, int], seconds: float) -> None:
        route, state, metrics = _route(scope), scope["state"], self._service.metrics
        status = seen["status"] or 499  # a client that leaves early may get no answer
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE") else "other"
        metrics.requests.labels(route, method, status).inc()
        metrics.seconds.labels(route).observe(seconds)
        # Taken out: its traceback leads back to the state.
        problem: ProblemError | None = state.pop("problem", None)
        fields = {
            "request_id": state["request_id"],
            "client": (scope.get("client") or ("?",))[0],
            "key": state.get("key"),
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1e3 * seconds, 1),
            "bytes": seen["bytes"],
        }
        if problem is not None:
            metrics.errors.labels(problem.kind).inc()
            fields |= {"problem": problem.kind, "detail": problem.detail}
        if route not in _QUIET or status >= 400:
            log.info("request", extra={"fields": fields})


def _route(scope: Scope) -> str:
    """The pattern of the route: never what the client has sent, of which there is no end."""
    route = scope.get("route")
    if route is not None and hasattr(route, "path"):
        return str(route.path)
    return "page" if scope.get("simmap.page") else "none"
