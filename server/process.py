"""The process: a socket, the signals, and connections that must not wait for ever."""

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import cv2
import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from simmap.engine.errors import ConfigError, printable

from .app import make_app
from .logs import log_to_stderr
from .routes.health import reload_logged
from .service import Service
from .settings import Settings

log = logging.getLogger("simmap.server")

SWITCH_SECONDS = 2e-4  # Python's 5 ms let a thread that ends a run wait for the event loop, its CPU idle
LINGER = 60.0  # seconds for a client to read the rest of an answer, once its connection is to close
_BACKLOG = 2048


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SimmapError: the model or the index cannot be opened, or the address is unavailable.
    """
    log_to_stderr()
    cv2.setNumThreads(1)  # a request has one thread; others work beside it
    sys.setswitchinterval(SWITCH_SECONDS)
    listener = listen(settings)
    with listener:
        service = Service(settings)
        asyncio.run(Server(service).serve([listener]))
    log.info("stopped")


def listen(settings: Settings) -> socket.socket:
    """The socket of the settings' address.

    Raises:
        ConfigError: the address is unknown, in use or forbidden.
    """
    address = (settings.host, settings.port)
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=settings.reuse_port)
        # asyncio sends small answers at once only where a socket names its protocol; else each takes 40 ms.
        return socket.socket(made.family, made.type, socket.IPPROTO_TCP, made.detach())
    except (OSError, UnicodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen on {printable(settings.host)} port {settings.port}: {reason}; "
            "give another --host or --port"
        ) from error


class Server(uvicorn.Server):
    """uvicorn with our signals: SIGTERM drains, SIGINT stops, SIGHUP reloads."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._reloads: set[asyncio.Task[bool]] = set()
        config = uvicorn.Config(
            make_app(service),
            http=_protocol(settings.body_seconds),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=settings.trusted_proxies is not None,
            forwarded_allow_ips=settings.trusted_proxies,
            # Else a request with a large body makes those behind it on its connection parts of its own trace
            # (CPython issue 140947).
            reset_contextvars=True,
            timeout_graceful_shutdown=math.ceil(settings.body_seconds + settings.run_seconds) + 1,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections, and say so: from here on signals and requests are answered."""
        await super().startup(sockets)
        if self.started:
            assert sockets
            _report(self._service, sockets[0])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals over; a process that was stopped so ends with 0."""
        loop = asyncio.get_running_loop()
        handlers: dict[int, Any] = {signal.SIGTERM: self._drain, signal.SIGINT: self._stop}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._reload
        try:
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows
            with super().capture_signals():
                yield
            return
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _drain(self) -> None:
        """Not ready, then no new connections, then the end of what is under way."""
        log.info("draining", extra={"fields": {"seconds": self._service.settings.drain_seconds}})
        self._service.draining = True
        asyncio.get_running_loop().call_later(self._service.settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        self._service.draining = True
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.ensure_future(reload_logged(self._service))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


def _report(service: Service, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    opened = service.models.current
    shown = f"[{host}]" if ":" in host else host
    log.info(
        "listening",
        extra={
            "fields": {
                "url": f"http://{shown}:{port}",
                "model": str(opened.engine.model),
                "fingerprint": opened.engine.contract.fingerprint,
                "device": opened.engine.device,
                "index": None if opened.index is None else opened.index.name,
                "threads": service.pool.threads,
                "keys": len(service.settings.keys),
            }
        },
    )
    if not service.settings.keys and not ip_address(host.partition("%")[0]).is_loopback:
        log.warning("open to the network without a key: everybody may compare and search; set keys")


def _protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 on connections that close where a request has not arrived ``seconds`` after its beginning.

    uvicorn waits for ever for the rest of a head, and for a client that never reads its answer. httptools is
    faster, but keeps a head of any size, and takes the body of a request that asks for an upgrade, as Java's
    client does, for the next request.
    """

    class Timed(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._abort_later()

        def _watch(self) -> None:
            """A request that is here whole needs no deadline."""
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._unwatch()
            elif self._deadline is None:
                # Longer than the body's own limit, which has an answer.
                self._deadline = self.loop.call_later(seconds + 1, self._expire)

        def _unwatch(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()
            self._abort_later()

        def _abort_later(self) -> None:
            self.loop.call_later(LINGER, self.transport.abort)

    return Timed
