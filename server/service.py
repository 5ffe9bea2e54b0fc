"""What all routes share, and how a request gets a thread."""

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from simmap.engine.images.decode import load
from simmap.engine.images.photo import Photo
from simmap.engine.runtime.cpus import usable_cpus

from .metrics import Metrics
from .models import Models, Opened
from .pool import Pool, Slot
from .problems import CLIENT_LEFT, ProblemError, problem_of
from .rates import Rates
from .settings import Settings

_Result = TypeVar("_Result")

# Whole seconds after which a client that was turned away may try again, drawn for each answer: clients that
# were turned away together do not come back together.
RETRY_SECONDS = (1, 3)


class Service:
    """The server behind its routes.

    Attributes:
        settings: of the server.
        models: what is open.
        pool: the threads.
        rates: of the clients.
        metrics: what Prometheus reads.
        draining: no longer ready, since the server will stop.
    """

    def __init__(self, settings: Settings) -> None:
        """Open model and index, and start no thread yet.

        Raises:
            As ``Models``.
        """
        self.settings, self.models = settings, Models(settings)
        self.pool = Pool(settings.threads or usable_cpus(), settings.queue)
        self.rates, self.metrics = Rates(settings.requests_per_minute), Metrics()
        self.draining = False
        self.metrics.slots.set(self.pool.slots)
        self.metrics.taken.set_function(lambda: self.pool.taken)
        self.metrics.ready.set_function(lambda: not self.draining)
        self._count_opened()

    def _count_opened(self) -> None:
        opened = self.models.current
        self.metrics.model.clear()
        about = opened.about()
        self.metrics.model.labels(about["name"], about["fingerprint"], opened.engine.device).set(1)

    def reload(self) -> None:
        """As ``Models.reload``, counted."""
        try:
            self.models.reload()
        except Exception:
            self.metrics.reloads.labels("refused").inc()
            raise
        self.metrics.reloads.labels("done").inc()
        self._count_opened()

    @asynccontextmanager
    async def work(self, request: Request) -> AsyncIterator["Work"]:
        """A slot for a request, whose body has not been read yet.

        Raises:
            ProblemError: 503, all slots are taken.
        """
        slot = self.pool.slot()
        if slot is None:
            raise _later("overload", "too many requests are under way; try again")
        try:
            yield Work(self, request, slot)
        finally:
            slot.release()


class Work:
    """A request that has a slot.

    Attributes:
        opened: the model and the index that it uses to its end.
        metrics: of the server.
    """

    def __init__(self, service: Service, request: Request, slot: Slot) -> None:
        self.opened: Opened = service.models.current
        self.metrics, self._settings = service.metrics, service.settings
        self._request, self._slot = request, slot

    async def body(self) -> bytes:
        """All of the request's body.

        Raises:
            ProblemError: 413 it is too large, 408 it does not come in time, 499 the client has left.
        """
        limit, parts, size = self._settings.max_bytes, list[bytes](), 0
        declared = self._request.headers.get("content-length", "0")
        try:
            with self.metrics.stage("body"):
                async with asyncio.timeout(self._settings.body_seconds):
                    if int(declared) > limit:
                        raise _too_large(limit)
                    async for part in self._request.stream():
                        size += len(part)
                        if size > limit:
                            raise _too_large(limit)
                        parts.append(part)
        except TimeoutError as error:
            late = f"the request did not arrive within {self._settings.body_seconds:g} s"
            raise ProblemError(408, "timeout", late, headers={"Connection": "close"}) from error
        except ClientDisconnect as error:
            raise _left() from error
        return b"".join(parts)

    async def run(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """``function(work, *arguments)`` on a thread of the pool.

        Raises:
            ProblemError: 503 it takes too long, 499 the client has left; what has not begun is then dropped.
                Or what an error of the engine means.
        """
        call = functools.partial(self._timed, time.perf_counter(), function, arguments)
        running = self._slot.run(call)
        leaving = asyncio.ensure_future(self._leaves())
        try:
            limit = self._settings.run_seconds
            either: set[asyncio.Future[Any]] = {running, leaving}
            await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if leaving.done():
                raise _left()
            raise _later("timeout", f"this took longer than {limit:g} s; try again")
        except ProblemError:
            raise
        except Exception as error:
            raise problem_of(error) from error
        finally:
            leaving.cancel()
            running.cancel()
            # An error's traceback leads here: a cycle would keep the request's body until a collection.
            del leaving, running, either

    async def _leaves(self) -> None:
        """Returns when the client has closed its connection."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _timed(
        self, submitted: float, function: Callable[..., _Result], arguments: tuple[object, ...]
    ) -> _Result:
        self.metrics.stages.labels("queue").observe(time.perf_counter() - submitted)
        with self.metrics.running.track_inprogress():
            return function(self, *arguments)

    def load(self, data: bytes, name: str) -> Photo:
        """Decode an image that a client has sent.

        Raises:
            ImageError: which calls the image ``name``.
        """
        with self.metrics.stage("decode"):
            photo = load(data, max_pixels=self._settings.max_pixels, name=name)
        self.metrics.images.inc()
        return photo


def _later(kind: str, detail: str) -> ProblemError:
    wait = {"Retry-After": str(random.randint(*RETRY_SECONDS))}
    return ProblemError(503, kind, detail, headers=wait)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, "size", f"the request is larger than {limit} bytes; send smaller images")


def _left() -> ProblemError:
    return ProblemError(CLIENT_LEFT, "left", "the client has closed its connection")
