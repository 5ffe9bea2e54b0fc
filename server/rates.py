"""A limit of requests for each client: a bucket that fills evenly (token bucket)."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from .problems import ProblemError

BURST_SECONDS = 10  # of the rate, that may come at once
MOST_CLIENTS = 10_000  # that are remembered


class Rates:
    """How many requests each client may still send; used by the event loop alone."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``per_minute``: 0 sets no limit."""
        self._rate = per_minute / 60
        self._burst = max(1.0, self._rate * BURST_SECONDS)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when

    def take(self, client: str) -> None:
        """Count one request.

        Raises:
            ProblemError: 429, there were too many.
        """
        if not self._rate:
            return
        now = self._clock()
        left, then = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        self._left[client] = (max(left - 1, 0) if left >= 1 else left, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)  # the one that has been silent for longest
        if left < 1:
            wait = {"Retry-After": str(math.ceil((1 - left) / self._rate))}
            raise ProblemError(429, "rate", "this client sends too many requests; wait", headers=wait)
