"""Whether a process grows with the calls of one engine: ``python tests/benchmarks/calls.py``.

An engine's threads are made once. Threads of their own for each call would leave memory behind: the first
``cv2.resize`` of a thread allocates 940 bytes that are never freed. A process compares two small images with
the smallest artifact of the tests, and says how much memory it holds after some calls.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from common import ROOT, Row, Settings, main, skipped

CALLS = (1_000, 2_000, 5_000, 10_000, 20_000)

CODE = """
import json, sys
import numpy as np
from simmap.engine import Engine, Options

photos = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)
held, done = [], 0
with Engine(sys.argv[1], device="cpu", options=Options(threads=2, cache=False)) as engine:
    for calls in map(int, sys.argv[2:]):
        for _ in range(calls - done):
            engine.compare(*photos)
        done = calls
        with open("/proc/self/status") as status:
            held += [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
print(json.dumps(held))
"""


def rows(options: Settings) -> Iterator[Row]:
    """Of the table: memory after each number of calls over that after the first."""
    if sys.platform != "linux":
        yield skipped("memory after many compares", "memory is read as Linux tells it")
        return
    artifact = ROOT / "tests" / "artifacts" / "avg.onnx"
    command = [sys.executable, "-c", CODE, str(artifact), *map(str, CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    held = json.loads(done.stdout)
    for calls, kilobytes in zip(CALLS[1:], held[1:], strict=True):
        ratio = kilobytes / held[0]
        yield Row(
            f"memory after {calls:,} compares / after {CALLS[0]:,}",
            ratio,
            ratio,
            ratio,
            "<= 1.01",
            f"{kilobytes - held[0]:+,} kB of {held[0]:,} kB",
            {"kilobytes": float(kilobytes), "calls": float(calls)},
        )


if __name__ == "__main__":
    main(rows)
