"""Nothing of a request is left when it has been answered, without waiting for a garbage collection."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import httpx
import pytest
from serving import AVG, A, B, files

from simmap.engine.results import Pair
from simmap.server.app import make_app
from simmap.server.pool import Slot
from simmap.server.service import Service, Work
from simmap.server.settings import Settings

LEFT = (Work, Slot, Pair, BaseException, FrameType)


@contextmanager
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left() -> int:
    """Objects of a request that are alive."""
    return sum(isinstance(one, LEFT) for one in gc.get_objects())


@pytest.mark.parametrize("second", [B.read_bytes(), b"no image"])
def test_an_answered_request_is_gone(second: bytes) -> None:
    async def ask(client: httpx.AsyncClient, count: int) -> None:
        for _ in range(count):
            answer = await client.post("/v1/compare", files=files(a=A, b=second))
            assert answer.status_code in (200, 422)
        await asyncio.sleep(0.1)

    async def run() -> tuple[int, int]:
        service = Service(Settings(model=str(AVG), device="cpu"))
        transport: Any = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            await ask(client, 3)
            with no_collections():
                before = left()
                await ask(client, 10)
                after = left()
        service.pool.close()
        return before, after

    before, after = asyncio.run(run())
    assert after <= before + 2
