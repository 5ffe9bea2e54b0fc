"""Images of several requests in one run, for a device that does many images in little more time than one."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from simmap.engine.images.photo import Source
from simmap.engine.streams import CUDA_BATCH, CUDA_THREADS

_Result = TypeVar("_Result")


class Batches(Generic[_Result]):
    """Calls of one function of images, joined while the device is busy.

    A call that finds fewer than ``CUDA_THREADS`` runs under way runs at once, alone. The others wait, and the
    next run takes all of them, on the thread of one. So there is no thread of its own, and nothing waits for
    a time-out.
    """

    def __init__(self, function: Callable[[Sequence[Source]], Iterable[_Result]]) -> None:
        """``function``: of images, gives a result for each, in their order."""
        self._function = function
        self._lock, self._turns = threading.Lock(), threading.Semaphore(CUDA_THREADS)
        self._waiting: list[_Call[_Result]] = []

    def __call__(self, images: Sequence[Source]) -> list[_Result]:
        """The results of a call's images.

        Raises:
            As the function for these images alone.
        """
        call = _Call[_Result](images)
        with self._lock:
            self._waiting.append(call)
        with self._turns:
            while calls := self._next(call):
                self._run(calls)
        return call.done.result()

    def _next(self, call: "_Call[_Result]") -> list["_Call[_Result]"]:
        """The calls of the next run, in the order in which they came; none if ``call`` waits no longer."""
        with self._lock:
            if call not in self._waiting:
                return []
            count, images = 0, 0
            for one in self._waiting:
                images += len(one.images)
                if count and images > CUDA_BATCH:
                    break
                count += 1
            calls, self._waiting = self._waiting[:count], self._waiting[count:]
            return calls

    def _run(self, calls: list["_Call[_Result]"]) -> None:
        try:
            results = list(self._function([image for call in calls for image in call.images]))
        except Exception as error:
            if len(calls) == 1:
                calls[0].done.set_exception(error)
                return
            for call in calls:  # whose image is at fault has the error alone
                self._run([call])
            return
        start = 0
        for call in calls:
            call.done.set_result(results[start : start + len(call.images)])
            start += len(call.images)


class _Call(Generic[_Result]):
    """Images that wait for a run."""

    def __init__(self, images: Sequence[Source]) -> None:
        self.images, self.done = images, Future[list[_Result]]()
