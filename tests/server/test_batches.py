"""Requests that share a run, as on CUDA: on the CPU here, where the server itself never joins them."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from serving import AVG, A, B, engine, files, noise

from simmap.engine import ImageError
from simmap.engine.images.photo import Source
from simmap.engine.results import Vector
from simmap.engine.streams import CUDA_BATCH
from simmap.engine.streams import CUDA_THREADS as RUNS
from simmap.server.app import make_app
from simmap.server.batches import Batches
from simmap.server.models import Opened
from simmap.server.service import Service
from simmap.server.settings import Settings


class Device:
    """An engine whose runs wait until the test lets them go.

    Attributes:
        runs: how many images each run had.
    """

    def __init__(self) -> None:
        self.runs, self.free = list[int](), threading.Event()
        self._engine = engine()

    def vectors(self, images: Sequence[Source]) -> list[Vector]:
        self.runs.append(len(images))
        assert self.free.wait(60)
        return list(self._engine.vectors(images, batch_size=CUDA_BATCH))


def joined(device: Device, calls: Sequence[Sequence[Source]]) -> "list[Future[list[Vector]]]":
    """The calls, made in this order while the device is busy with ``RUNS`` others."""
    batches = Batches(device.vectors)
    with ThreadPoolExecutor(RUNS + len(calls)) as threads:
        for started in range(RUNS):
            threads.submit(batches, [noise(started)])
            _until(lambda started=started: len(device.runs) > started)  # type: ignore[misc]
        futures = []
        for call in calls:
            futures.append(threads.submit(batches, call))
            _until(lambda: len(batches._waiting) == len(futures))
        device.free.set()
    return futures


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_waits_is_one_run_and_each_call_gets_its_own() -> None:
    device = Device()
    calls = [[noise(10 * at + one) for one in range(1 + at % 3)] for at in range(6)]
    futures = joined(device, calls)
    assert device.runs == [1] * RUNS + [12]
    for call, future in zip(calls, futures, strict=True):
        alone = [one.embedding for one in engine().vectors(call)]
        np.testing.assert_allclose([one.embedding for one in future.result()], alone, rtol=1e-5, atol=1e-6)


def test_a_run_is_not_larger_than_its_limit_unless_one_call_is() -> None:
    device = Device()
    sizes = [20, 12, 1, CUDA_BATCH + 1, 5, 28]
    futures = joined(device, [[noise(0)] * size for size in sizes])
    assert sorted(device.runs[RUNS:]) == sorted([20 + 12, 1, CUDA_BATCH + 1, 5, 28])
    assert [len(future.result()) for future in futures] == sizes


def test_an_image_that_fails_fails_its_own_call_only() -> None:
    device = Device()
    futures = joined(device, [[noise(1)], [noise(2), b"no image"], [noise(3)]])
    assert device.runs[RUNS:] == [4, 1, 2, 1]
    with pytest.raises(ImageError):
        futures[1].result()
    for seed, future in ((1, futures[0]), (3, futures[2])):
        (vector,) = future.result()
        (alone,) = engine().vectors([noise(seed)])
        np.testing.assert_allclose(vector.embedding, alone.embedding, rtol=1e-5, atol=1e-6)


def test_the_routes_answer_as_without_batches() -> None:
    service = Service(Settings(model=str(AVG), threads=8))
    plain = engine()
    expected = {pair: plain.compare(*pair).score for pair in ((A, B), (B, A), (A, A))}
    (vector,) = plain.vectors([A])
    service.models.current = Opened(plain, None, Batches(plain.embed), Batches(plain.vectors))

    async def ask() -> None:
        transport = httpx.ASGITransport(make_app(service))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:

            async def compare(pair: tuple) -> None:  # type: ignore[type-arg]
                response = await client.post("/v1/compare", files=files(a=pair[0], b=pair[1]))
                data = response.json()
                assert response.status_code == 200 and data["score"] == pytest.approx(
                    expected[pair], abs=1e-6
                )
                assert np.sum(data["maps"][0]) + data["residuals"][0] == pytest.approx(
                    data["score"], abs=1e-5
                )

            async def embed() -> None:
                response = await client.post("/v1/embed", files=files(image=A))
                np.testing.assert_allclose(
                    response.json()["embedding"], vector.embedding, rtol=1e-5, atol=1e-6
                )

            async def broken() -> None:
                response = await client.post("/v1/compare", files=files(a=A, b=b"no image"))
                assert response.status_code == 422 and response.json()["field"] == "b"

            await asyncio.gather(
                *(compare(pair) for pair in [*expected] * 6), *(embed() for _ in range(6)), broken()
            )

    asyncio.run(ask())
    service.pool.close()
