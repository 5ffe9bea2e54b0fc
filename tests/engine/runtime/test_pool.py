"""A pool of threads: the order and errors of its streams, and how they end."""

import gc
import threading
import time
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.errors import ConfigError
from simmap.engine.runtime.pool import Pool


class FaultError(Exception):
    """What the work of a test raises."""


POOLS = {threads: Pool(threads) for threads in (1, 2, 5)}


@given(
    st.lists(st.integers(0, 9), max_size=25),
    st.sampled_from(sorted(POOLS)),
    st.integers(1, 12),
    st.none() | st.integers(0, 25),
)
def test_results_and_errors_come_in_the_order_of_the_items(
    items: list[int], threads: int, window: int, breaks: int | None
) -> None:
    def work(item: int) -> int:
        time.sleep(item % 3 * 1e-4)
        if item == 9:
            raise FaultError("work")
        return item * item

    def source() -> Iterator[int]:
        for at, item in enumerate(items):
            if at == breaks:
                raise FaultError("items")
            yield item
        if breaks is not None and breaks >= len(items):
            raise FaultError("items")

    expected: list[object] = []
    try:
        expected.extend(work(item) for item in source())
    except FaultError as error:
        # Results before the error, one by one.
        expected = []
        for at, item in enumerate(items):
            if item == 9 or at == breaks:
                break
            expected.append(item * item)
        expected.append(str(error))
    found: list[object] = []
    try:
        found.extend(POOLS[threads].ahead(work, source(), window))
    except FaultError as error:
        found.append(str(error))
    assert found == expected


@given(st.sampled_from([2, 5]), st.integers(1, 6), st.integers(0, 12))
def test_a_stream_that_is_left_early_cancels_its_work(threads: int, window: int, read: int) -> None:
    cancelled: list[bool] = []
    stream = POOLS[threads].ahead(abs, range(10), window, lambda: cancelled.append(True))
    taken = [value for _, value in zip(range(read), stream, strict=False)]
    stream.close()
    assert taken == list(range(min(read, 10)))
    # Only work that was begun can be cancelled, and only once.
    assert cancelled in ([], [True])
    if read == 0 or read > 10:
        assert not cancelled


def test_work_that_was_begun_is_cancelled_and_what_was_not_is_dropped() -> None:
    begun, ended, done = threading.Event(), threading.Event(), []
    pool = Pool(2)

    def work(item: int) -> int:
        done.append(item)
        if item == 0:
            assert begun.wait(60)
        else:
            begun.set()
            assert ended.wait(60)
        return item

    stream = pool.ahead(work, range(100), 8, ended.set)
    assert next(stream) == 0
    assert not ended.is_set()
    stream.close()
    assert ended.is_set()
    pool.close()
    # Two threads: the second took 1, and the first may have taken 2.
    assert set(done) <= {0, 1, 2}


def test_closing_ends_streams_that_are_being_read_elsewhere() -> None:
    pool, ended, begun = Pool(2), threading.Event(), threading.Event()
    errors: list[str] = []

    def work(_: int) -> None:
        begun.set()
        assert ended.wait(60)
        raise FaultError

    def read() -> None:
        try:
            list(pool.ahead(work, range(100), 4, ended.set))
        except ConfigError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    pool.close()
    reader.join(60)
    assert errors == ["the engine is closed; open another"]
    assert not any(
        thread.name.startswith("simmap") for thread in pool._executor._threads if thread.is_alive()
    )


def test_a_stream_may_be_collected_in_a_thread_of_its_own_pool() -> None:
    pool, begun, ended = Pool(2), threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            assert begun.wait(60)
        else:
            begun.set()
            assert ended.wait(60)

    class Holder:
        """Of a stream that holds its holder, so that only the collector finds the two."""

        stream: Iterator[None]

        def items(self) -> Iterator[int]:
            yield from range(2)

    holder = Holder()
    holder.stream = pool.ahead(work, holder.items(), 2, ended.set)
    next(holder.stream)
    del holder
    # The other thread is in the stream's own work while this one collects the stream.
    assert not ended.is_set()
    assert list(pool.ahead(lambda _: gc.collect() >= 0, range(1), 1)) == [True]
    assert ended.is_set()
    pool.close()


def test_one_thread_serves_the_main_thread_only() -> None:
    pool = POOLS[1]

    def thread_of(_: int) -> threading.Thread:
        return threading.current_thread()

    (inner,) = pool.ahead(thread_of, range(1), 1)
    assert inner is not threading.main_thread()
    found: list[threading.Thread] = []
    other = threading.Thread(target=lambda: found.extend(pool.ahead(thread_of, range(3), 1)))
    other.start()
    other.join(60)
    assert found == [other] * 3


def test_the_threads_are_as_many_as_were_asked_for() -> None:
    names: set[int] = set()

    def work(_: int) -> None:
        time.sleep(1e-3)
        names.add(threading.get_ident())

    pool = Pool(3)
    streams = [pool.ahead(work, range(20), 10) for _ in range(4)]
    for group in zip(*streams, strict=True):
        assert group == (None,) * 4
    assert 1 <= len(names) <= 3
    pool.close()
