"""Embed images on all nodes of a Ray cluster; what an index gets is what one machine would give it.

Each shard of images is a Ray task. Ray runs it again where a worker or a node dies, and this process, which
alone writes to the index, takes the shards in the order in which they are done.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..dataset import Item
from ..engine import Engine
from ..errors import ArtifactError, ClusterError, SimmapError, printable
from ..files import absolute
from ..images.photo import Source
from ..options import Options
from ..types import Array
from ..urls import is_url
from .store import Entry, identity
from .update import COMMIT_ROWS, Embed, embedded_batches

RETRIES = 20  # of one shard whose worker has died: an image that kills each of them must not do so for ever
AHEAD = 2  # shards a CPU that are on their way, so that no worker waits for the next
PATIENCE = 10  # seconds for a connection to the head node

Todo = Sequence[tuple[Item, Entry]]


@dataclass(frozen=True)
class _Model:
    """What a worker needs to open the engine of the client.

    Attributes:
        name: of the artifact's file.
        identity: of its vectors, see ``store.identity``.
        options: of the engine.
        artifact: reference to the bytes of the file; in a tuple, or Ray would send them with each shard.
    """

    name: str
    identity: str
    options: Options
    artifact: tuple[Any]


@dataclass(frozen=True, eq=False)
class _Refused:
    """An image that a worker could not embed.

    Attributes:
        path: absolute, or a URL.
        error: why.
        seen: the worker may read the file.
    """

    path: str
    error: SimmapError
    seen: bool


@dataclass(frozen=True, eq=False)
class _Embedded:
    """A shard that is done.

    Attributes:
        node: address of the node that did it.
        entries, vectors: as ``embedded_batches`` gives them, (n, D).
        refused: the images that are missing there.
    """

    node: str
    entries: list[Entry]
    vectors: Array
    refused: list[_Refused]


@contextmanager
def ray_cluster(address: str) -> Iterator[Embed]:
    """Connect to a Ray cluster, and give what embeds on it: ``embed`` of ``update_index``.

    A connection that this process has already is used, and left open. Images are read by the workers: files
    must have the same path on all nodes.

    Args:
        address: ``HOST:PORT`` of the head node; ``auto``, the cluster of this machine or of RAY_ADDRESS; or
            ``local``, a cluster of this machine alone that ends with the connection.

    Raises:
        ClusterError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed; run: pip install 'simmap[ray]'") from error

    def embed(
        engine: Engine, todo: Todo, on_error: Callable[[Source, SimmapError], None] | None
    ) -> Iterator[tuple[list[Entry], Array]]:
        return _embedded_shards(ray, engine, todo, on_error)

    if ray.is_initialized():
        yield embed
        return
    _connect(ray, address)
    try:
        yield embed
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    more: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        more = {"include_dashboard": False}
    try:
        parts = urlsplit(address if is_url(address) else f"//{address}")
        if parts.hostname and parts.port:
            # Where nobody listens, Ray itself tries for more than a minute.
            socket.create_connection((parts.hostname, parts.port), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL", **more)
    # Ray raises errors of many kinds here, its own among them.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"no connection to a Ray cluster at {printable(address)} ({reason}); start one with: "
            "ray start --head, and give its address and token (RAY_AUTH_TOKEN)"
        ) from error


def _embedded_shards(
    ray: ModuleType, engine: Engine, todo: Todo, on_error: Callable[[Source, SimmapError], None] | None
) -> Iterator[tuple[list[Entry], Array]]:
    """As ``embedded_batches``, on the cluster; a batch is what is left of a shard, in any order.

    Raises:
        ClusterError: images are in this process's memory, the cluster has nothing to run on, a node cannot
            read what this one can, or the workers of one shard have died too often.
    """
    if not todo:
        return
    for item, _ in todo:
        if item.path.startswith("memory://"):
            raise ClusterError(
                f"{printable(item.path)}: is in the memory of this process, which workers do not see"
            )
    on_gpus = engine.device != "cpu"
    resource = "GPU" if on_gpus else "CPU"
    slots = _slots(ray, resource)
    if slots == 0:
        raise ClusterError(
            f"the Ray cluster has no {resource}; add a node with: ray start --address HOST:PORT"
        )
    task = ray.remote(num_cpus=1, num_gpus=int(on_gpus), max_retries=RETRIES)(_embed_shard)
    options = replace(
        engine.options, model=None, device="cuda" if on_gpus else "cpu", threads=1, workers=1, cache=False
    )
    artifact = ray.put(engine.model.read_bytes())
    model = _Model(engine.model.name, identity(engine), options, (artifact,))
    given = {absolute(item.path): item.path for item, _ in todo}
    size = max(1, min(COMMIT_ROWS, len(todo) // (2 * AHEAD * slots)))
    shards = (todo[start : start + size] for start in range(0, len(todo), size))
    flying: dict[Any, Todo] = {}
    while True:
        for shard in islice(shards, max(0, AHEAD * (_slots(ray, resource) or 1) - len(flying))):
            sent = [(Item(absolute(item.path)), entry) for item, entry in shard]
            flying[task.remote(model, sent)] = shard
        if not flying:
            return
        (ready, *_), _ = ray.wait(list(flying))
        done = _result(ray, ready, flying.pop(ready))
        if done.entries:
            yield done.entries, done.vectors
        for refused in done.refused:
            name = given[refused.path]
            error = _as_here(refused, name, done.node)
            if on_error is None:
                raise error
            on_error(name, error)


def _slots(ray: ModuleType, resource: str) -> int:
    """How many shards the cluster embeds at a time; nodes come and go."""
    return int(ray.cluster_resources().get(resource, 0))


def _result(ray: ModuleType, ready: Any, shard: Todo) -> _Embedded:
    images = f"{printable(shard[0][0].path)} to {printable(shard[-1][0].path)}"
    try:
        done: _Embedded = ray.get(ready)
        return done
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SimmapError):
            raise error.cause from error
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise ClusterError(
            f"{images}: a worker failed ({reason}); install the same version of simmap[ray] on all nodes"
        ) from error
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"{images}: Ray gave up after {RETRIES + 1} attempts ({reason}); see its logs, and embed these "
            "images alone to find one that is at fault"
        ) from error


def _as_here(refused: _Refused, name: str, node: str) -> SimmapError:
    """The error with the image's name as it was given.

    Raises:
        ClusterError: this process can read the file, which the worker could not.
    """
    if not refused.seen and os.access(refused.path, os.R_OK):
        raise ClusterError(
            f"{printable(name)}: the node {node} cannot read it; mount its folder at the same path on all "
            "nodes, for the user that runs Ray"
        )
    rest = str(refused.error).removeprefix(printable(refused.path))
    return type(refused.error)(printable(name) + rest)


def _embed_shard(model: _Model, shard: Todo) -> _Embedded:
    """What a worker does."""
    import ray

    engine = _opened(model)
    refused = []

    def refuse(source: Source, error: SimmapError) -> None:
        path = str(source)
        refused.append(_Refused(path, error, is_url(path) or os.access(path, os.R_OK)))

    batches = list(embedded_batches(engine, shard, refuse))
    entries = [entry for part, _ in batches for entry in part]
    vectors = np.concatenate([part for _, part in batches]) if batches else np.empty((0, 0), np.float32)
    util: Any = ray.util  # without types
    return _Embedded(util.get_node_ip_address(), entries, vectors, refused)


@lru_cache(maxsize=1)
def _opened(model: _Model) -> Engine:
    """The engine of this worker, which keeps it for the shards to come."""
    import cv2
    import ray

    cv2.setNumThreads(1)  # others work beside it
    # With one thread an engine opens its file once.
    with tempfile.TemporaryDirectory(prefix="simmap-") as folder:
        path = Path(folder) / model.name
        path.write_bytes(ray.get(model.artifact[0]))
        engine = Engine(path, options=model.options)
    if identity(engine) != model.identity:
        raise ArtifactError(f"{printable(model.name)}: was replaced while the build began; start it again")
    return engine
