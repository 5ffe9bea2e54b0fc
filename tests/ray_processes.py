"""Ray's processes, for tests that kill them, known by the token in their environment; and what they leave."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from simmap.engine.errors import StoreError
from simmap.engine.index.embedded import Index

_T = TypeVar("_T")

TASK = b"ray::_embed_shard"  # how a worker is called while it embeds
PATIENCE = 120  # seconds until what should happen has happened


def processes(token: str, start: bytes = b"") -> list[int]:
    """Ids of the processes of the cluster with this token whose command begins with ``start``."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                folder.name.isdecimal()
                and (folder / "cmdline").read_bytes().startswith(start)
                and token.encode() in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
    return found


def kill_worker(token: str) -> int:
    """Kill a worker while it embeds; its id."""
    worker = waited(lambda: processes(token, TASK))[0]
    os.kill(worker, signal.SIGKILL)
    waited(lambda: worker not in processes(token, TASK))
    return worker


def rows(path: Path) -> int:
    """How many images an index has, which may not be there yet."""
    try:
        return len(Index(path))
    except StoreError:
        return 0


def waited(look: Callable[[], _T]) -> _T:
    """What ``look`` gives, once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found
