"""Threads that work on requests, and how many requests may be under way."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


class Pool:
    """A fixed number of threads and of slots. A request has a slot from before its body is read.

    Attributes:
        threads: that work at the same time.
        slots: requests that may be under way: one a thread, and those that wait.
        taken: slots in use, which only the event loop changes.
    """

    def __init__(self, threads: int, queue: int) -> None:
        self.threads, self.slots, self.taken = threads, threads + queue, 0
        self._executor = ThreadPoolExecutor(threads, "simmap-request")

    def slot(self) -> "Slot | None":
        """A slot, or None where all are taken."""
        return Slot(self, self._executor) if self.taken < self.slots else None

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._executor.shutdown(cancel_futures=True)


class Slot:
    """The right of one request to be under way. It is free again when its request and its runs have ended."""

    def __init__(self, pool: Pool, executor: ThreadPoolExecutor) -> None:
        self._pool, self._executor, self._holders = pool, executor, 1
        pool.taken += 1

    def release(self) -> None:
        """The request, or one of its runs, has ended."""
        self._holders -= 1
        if not self._holders:
            self._pool.taken -= 1

    def run(self, work: Callable[[], _Result]) -> "asyncio.Future[_Result]":
        """The result of ``work``, from a thread of the pool.

        Cancelling this drops work that has not begun. Nothing can stop a run: its slot is kept to its end.
        """
        loop = asyncio.get_running_loop()

        def ended(_: "Future[_Result]") -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody counts any more
                loop.call_soon_threadsafe(self.release)

        self._holders += 1
        future = self._executor.submit(work)
        future.add_done_callback(ended)
        return asyncio.wrap_future(future)
