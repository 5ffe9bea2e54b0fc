"""One server without and one with an index and keys, for all tests that do not stop theirs."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import KEYS, Served, key_setting, make_index, serving


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """A server of the small model without an index."""
    with serving() as one:
        yield one


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[httpx.Client]:
    """A client of ``served``."""
    with served.client() as one:
        yield one


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A server with an index and a key for each permission; and the folder of both."""
    folder = tmp_path_factory.mktemp("indexed")
    make_index(folder)
    config = folder / "server.yaml"
    lines = [f"index: {folder / 'index'}", "queue: 64", "keys:"]
    for name, key in KEYS.items():
        may = [one for one in KEYS if one != "all" and name in (one, "all")]
        lines.append(f"  {name}: {key_setting(key, *may)}")
    config.write_text("\n".join(lines))
    with serving("--config", config, "--index", folder / "index") as one:
        yield one, folder
