"""Streams of images through a network: their order, their errors and their threads."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .errors import ConfigError, SimmapError
from .images.decode import load
from .images.photo import Photo, Source
from .network import Failed, Item, Network, Prepared, Wanted
from .results import Vector
from .runtime.pool import Pool
from .runtime.session import run_options

if TYPE_CHECKING:
    from onnxruntime import RunOptions

OnError = Callable[[Source, SimmapError], None]

CUDA_BATCH = 32  # images of one run
CUDA_THREADS = 2  # the device works on one batch while the results of another are copied


class Streams:
    """The streams of one engine, which share its threads."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._on_cpu = network.session.device == "cpu"
        self._workers = Pool(network.workers)
        # CUDA sets up its libraries for each thread that runs something on it.
        self._runners = self._workers if self._on_cpu else Pool(CUDA_THREADS)

    def start(
        self, items: Iterable[Item], wanted: Wanted, batch_size: int | None, on_error: OnError | None
    ) -> Iterator[Vector]:
        """The results of a stream; see ``Engine.embed``.

        Raises:
            ConfigError: ``batch_size`` is below 1; while it is read, the engine is closed.
        """
        if batch_size is None:
            batch_size = 1 if self._on_cpu else CUDA_BATCH
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, must be 1 or more")
        if self._on_cpu and batch_size == 1:
            outcomes = self._singly(items, wanted)
        else:
            outcomes = self._in_batches(items, batch_size, wanted)
        return _delivered(outcomes, on_error)

    def load(self, sources: Iterable[Source]) -> list[Photo]:
        """Decode a few images at once."""
        limit = self._network.options.max_pixels

        def work(source: Source) -> Photo:
            return load(source, max_pixels=limit)

        return list(self._workers.ahead(work, sources, self._workers.threads))

    def warm_up(self, batch_size: int) -> None:
        """Run on grey, on each thread that runs the network on CUDA."""
        network, runs = self._network, run_options()
        grey = np.full((*network.size, 3), 128, np.uint8)

        def work(_: int) -> None:
            network.session.infer([grey] * batch_size, network.contract.explained, runs)

        count = 1 if self._on_cpu else CUDA_THREADS
        for _ in self._runners.ahead(work, range(count), count, _terminate(runs)):
            pass

    def close(self) -> None:
        """End all streams and threads."""
        self._workers.close()
        self._runners.close()

    def _singly(self, items: Iterable[Item], wanted: Wanted) -> "_Outcomes":
        """Each worker takes an image all the way."""
        network, runs = self._network, run_options()

        def work(numbered: tuple[int, Item]) -> list[Vector | Failed]:
            position, item = numbered
            prepared = network.prepare(item)
            return network.run(network.session_of(position), [prepared], wanted, runs)

        threads = self._workers.threads
        window = 2 * threads if threads > 1 else 1
        return self._workers.ahead(work, enumerate(items), window, _terminate(runs))

    def _in_batches(self, items: Iterable[Item], size: int, wanted: Wanted) -> "_Outcomes":
        """Workers prepare images while the network runs on those before."""
        network, runs = self._network, run_options()

        def work(batch: list[Prepared | Failed]) -> list[Vector | Failed]:
            return network.run(network.session, batch, wanted, runs)

        threads = self._workers.threads
        window = max(2 * threads, size) if threads > 1 else 1
        with closing(self._workers.ahead(network.prepare, items, window)) as prepared:
            batches = iter(lambda: list(islice(prepared, size)), [])
            ahead = min(self._runners.threads, CUDA_THREADS)
            outcomes = self._runners.ahead(work, batches, ahead, _terminate(runs))
            with closing(outcomes):
                yield from outcomes


def _terminate(runs: "RunOptions") -> Callable[[], None]:
    """Ends the runs that are under way, by an error, and any later one."""
    return partial(setattr, runs, "terminate", True)


_Outcomes = Generator[list[Vector | Failed], None, None]


def _delivered(outcomes: _Outcomes, on_error: OnError | None) -> Iterator[Vector]:
    """The results one by one; errors go to ``on_error``, or are raised."""
    with closing(outcomes):
        for batch in outcomes:
            for result in batch:
                if isinstance(result, Vector):
                    yield result
                elif on_error is None:
                    raise result.error
                else:
                    on_error(result.item.source, result.error)
