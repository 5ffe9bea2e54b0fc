"""Building an index on two nodes: network namespaces with a cable between them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
import pytest
from index_common import content
from ray_processes import TASK, processes, rows, waited

from common import MODEL
from simmap.engine.index.embedded import Index

pytest.importorskip("ray", reason="needs Ray: pip install ray")

TOKEN = uuid4().hex
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that does not answer is given up after these, not after half a minute.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "SIMMAP_CACHE": "",
}
PORT = 6379


class Nodes:
    """Two network namespaces, and the processes in them.

    Attributes:
        head: address of the cluster.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        mark = uuid4().hex[:6]
        self._names = [f"simmap-{mark}-{at}" for at in (1, 2)]
        self._subnet = f"10.{os.getpid() % 200 + 20}.{int(mark[:2], 16)}"
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self.head = f"{self._subnet}.1:{PORT}"

    def lay_cable(self) -> None:
        """Make the namespaces, or skip the test where that is not allowed."""
        if shutil.which("ip") is None:
            pytest.skip("needs ip: apt-get install iproute2")
        one, two = self._names
        if (made := self._ip("netns", "add", one)).returncode:
            pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
        self._ip("netns", "add", two)
        cable = ("link", "add", "veth0", "netns", one, "type", "veth", "peer", "name", "veth0", "netns", two)
        if (made := self._ip(*cable)).returncode:
            pytest.skip(f"virtual cables are not allowed here: {made.stderr.strip()}")
        for at, name in enumerate(self._names, 1):
            self._ip("-n", name, "addr", "add", f"{self._subnet}.{at}/24", "dev", "veth0")
            self._ip("-n", name, "link", "set", "veth0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")

    @staticmethod
    def _ip(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)

    def start(self, at: int, *, hidden: Path | None = None) -> None:
        """Start the node 1 or 2; ``hidden`` is a folder that it does not see."""
        own = self._folder / str(at)
        own.mkdir(exist_ok=True)
        ray = shutil.which("ray", path=str(Path(sys.executable).parent))
        assert ray is not None
        where = [f"--address={self.head}"]
        if at == 1:
            where = ["--head", f"--port={PORT}", f"--temp-dir={own}", "--include-dashboard=false"]
        command = [
            ray, "start", *where, f"--node-ip-address={self._subnet}.{at}", "--num-cpus=1",
            "--object-store-memory=100000000", "--block",
        ]  # fmt: skip
        # Namespaces of mounts come with those of the network.
        script = 'test -z "$HIDDEN" || mount -t tmpfs none "$HIDDEN"; exec "$@"'
        log = own / "log"
        with log.open("wb") as stream:
            self._nodes[at] = subprocess.Popen(
                ["ip", "netns", "exec", self._names[at - 1], "sh", "-c", script, "sh", *command],
                env={
                    **ENVIRONMENT,
                    "SIMMAP_NODE": f"node-{at}-{TOKEN}",
                    "HIDDEN": str(hidden or ""),
                    "TMPDIR": str(own),  # for what a killed worker leaves
                },
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        waited(lambda: b"Ray runtime started" in log.read_bytes() or self._nodes[at].poll() is not None)
        assert self._nodes[at].poll() is None, log.read_text()

    @staticmethod
    def processes(at: int, start: bytes = b"") -> list[int]:
        """Ids of the processes of a node."""
        return processes(f"node-{at}-{TOKEN}", start)

    def kill(self, at: int) -> None:
        """Kill all of a node at once, as a lost machine does."""
        while left := self.processes(at):
            for one in left:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            if at in self._nodes:
                self._nodes.pop(at).wait()

    @contextmanager
    def client(self, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
        """``simmap ARGUMENTS`` on the head node."""
        command = ["ip", "netns", "exec", self._names[0], sys.executable, "-m", "simmap.cli"]
        with subprocess.Popen(
            [*command, *map(str, arguments)],
            env={**ENVIRONMENT, "SIMMAP_NODE": f"node-3-{TOKEN}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            yield process

    def remove(self) -> None:
        """Leave nothing behind."""
        for at in (3, 2, 1):
            self.kill(at)
        for name in self._names:
            self._ip("netns", "del", name)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes, of which the first runs."""
    # Ray's sockets lie there, whose paths may not be long.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    made = Nodes(folder)
    try:
        made.lay_cable()
        made.start(1)
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Photos that take some seconds to embed."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos" / "noise"
    root.mkdir(parents=True)
    for number in range(300):
        cv2.imwrite(str(root / f"{number:03d}.png"), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return root.parent


def test_a_node_without_the_photos_is_named(nodes: Nodes, many: Path, tmp_path: Path) -> None:
    nodes.start(2, hidden=many)
    with nodes.client("index", "build", many, "-o", tmp_path / "ix", "--ray", nodes.head) as client:
        out, err = client.communicate(timeout=120)
    assert client.returncode == 1 and out == "" and err.count("\n") == 1
    assert ".2 cannot read it; mount its folder at the same path on all nodes" in err
    nodes.kill(2)


def test_a_lost_node_loses_nothing(nodes: Nodes, many: Path, tmp_path: Path) -> None:
    nodes.start(2)
    build = ("index", "build", many, "--model", MODEL, "-o")
    with nodes.client(*build, tmp_path / "ix", "--ray", nodes.head) as client:
        waited(lambda: nodes.processes(1, TASK) and nodes.processes(2, TASK))
        waited(lambda: rows(tmp_path / "ix") > 0)
        assert client.poll() is None
        nodes.kill(2)
        assert 0 < rows(tmp_path / "ix") < 300
        out, err = client.communicate(timeout=120)
    assert (out, err) == (f"{tmp_path / 'ix'}: 300 added, 0 kept, 0 removed, 0 skipped; 300 images\n", "")
    with nodes.client(*build, tmp_path / "alone") as client:
        assert client.wait(120) == 0
    assert content(Index(tmp_path / "ix")) == content(Index(tmp_path / "alone"))
