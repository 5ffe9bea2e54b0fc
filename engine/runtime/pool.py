"""Threads that work ahead of the reader of a stream."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..errors import ConfigError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def _nothing() -> None:
    pass


class Pool:
    """A fixed number of threads that any number of streams share.

    Work never waits for other work of the pool, and each stream has only a few items in it. So a stream
    may be read from several threads' own streams, within the loop over another stream, or not to its end,
    and no other stream waits for it.

    A pool of one thread serves the main thread only: another thread that reads a stream does the work
    itself, so that the threads of a server do not queue for one. The main thread never does, since Python
    handles Ctrl-C in the main thread, and not while that is inside ONNX Runtime.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor, self._process = self._start()
        self._lock = threading.Lock()
        self._cancels: set[Callable[[], None]] = set()  # of the streams that are being read
        self._closed = False

    def _start(self) -> tuple[ThreadPoolExecutor, int]:
        return ThreadPoolExecutor(self.threads, "simmap"), os.getpid()

    def ahead(
        self,
        work: Callable[[_Item], _Result],
        items: Iterable[_Item],
        window: int,
        cancel: Callable[[], None] = _nothing,
    ) -> Generator[_Result, None, None]:
        """The results of ``work`` for each item, in order, at most ``window`` items ahead of the reader.

        The reader's own thread reads ``items``, so these need not be safe for threads. An error, of the
        work or of ``items``, is raised in its place in the order.

        Args:
            work: a function of one item; it must not wait for other work of this pool.
            items: what to work on.
            window: the most items that are worked on or done, but not yet given to the reader.
            cancel: ends work that is under way; called when the stream ends early, by an error, by
                ``close`` or because its reader has gone. Work that has not begun is dropped.

        Raises:
            ConfigError: the pool is closed.
        """
        self._cancels.add(cancel)
        try:
            if self.threads == 1 and threading.current_thread() is not threading.main_thread():
                yield from self._by_the_reader(work, items)
            else:
                yield from self._by_threads(work, items, window, cancel)
        finally:
            self._cancels.discard(cancel)

    def _by_the_reader(
        self, work: Callable[[_Item], _Result], items: Iterable[_Item]
    ) -> Generator[_Result, None, None]:
        for item in items:
            self._check_open()
            try:
                result = work(item)
            except Exception:
                self._check_open()  # the better reason
                raise
            yield result

    def _by_threads(
        self,
        work: Callable[[_Item], _Result],
        items: Iterable[_Item],
        window: int,
        cancel: Callable[[], None],
    ) -> Generator[_Result, None, None]:
        broken: list[Exception] = []

        def reading() -> Iterator[_Item]:
            try:
                yield from items
            except Exception as error:
                broken.append(error)  # raised after what came before it

        waiting: deque[Future[_Result]] = deque()
        try:
            for item in reading():
                waiting.append(self._submit(work, item))
                # What is ready is given at once, since the next item may be long in coming.
                if len(waiting) >= window or waiting[0].done():
                    yield self._first(waiting)
            while waiting:
                yield self._first(waiting)
            if broken:
                raise broken[0]
        finally:
            if waiting:
                # Nobody waits for the threads here: the garbage collector may run this in one of them.
                for future in waiting:
                    future.cancel()
                cancel()
                waiting.clear()

    def close(self) -> None:
        """Cancel what is under way, and wait until the threads have ended; no work is taken afterwards."""
        self._closed = True
        for cancel in list(self._cancels):
            cancel()
        self._executor.shutdown(cancel_futures=True)

    def _submit(self, work: Callable[[_Item], _Result], item: _Item) -> "Future[_Result]":
        self._check_open()
        with self._lock:
            if self._process != os.getpid():  # threads do not outlive a fork
                self._executor, self._process = self._start()
        return self._executor.submit(work, item)

    def _first(self, waiting: "deque[Future[_Result]]") -> _Result:
        """The result of the first item, which is taken off once it is there."""
        try:
            result = waiting[0].result()
        except Exception:
            self._check_open()  # the better reason
            raise
        waiting.popleft()
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the engine is closed; open another")
