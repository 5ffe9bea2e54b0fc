"""A folder on 127.0.0.1, with the headers of the page: to look at a site, not to host it."""

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from simmap.engine.errors import ConfigError

from .headers import HEADERS


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The system's own table may lack these or say something else.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a browser that closes a connection early


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder, which answers once ``serve_forever`` runs.

    Args:
        folder: what to serve.
        port: 0 takes any that is free.

    Raises:
        ConfigError: the port is in use or not allowed.
    """
    try:
        return _Server(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ConfigError(f"port {port}: {error.strerror or error}; give another with --port") from None
