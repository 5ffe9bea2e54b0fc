"""Work on a stream of items by threads that stay a few items ahead of the reader."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, window: int
) -> Generator[_Result, None, None]:
    """``work`` of each item, in order, by threads that are at most ``window`` items ahead of the reader.

    The reader's own thread reads ``items``, so these need not be safe for threads. An error, of the work
    or of ``items``, is raised in its place in the order. Without threads the reader does the work.
    """
    if threads == 0:
        yield from map(work, items)
        return
    broken: list[Exception] = []

    def reading() -> Iterator[_Item]:
        try:
            yield from items
        except Exception as error:
            broken.append(error)  # raised after what came before it

    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads, "simmap")
    try:
        for item in reading():
            waiting.append(pool.submit(work, item))
            # What is ready is given at once, since the next item may be long in coming.
            if len(waiting) >= window or waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if broken:
            raise broken[0]
    finally:
        pool.shutdown(cancel_futures=True)
