"""The long run of the fuzzers: ``python tests/fuzz/run.py --minutes 30``.

Each kind is tried again and again with fresh seeds, in processes of its own, so that a crash or a hang ends
only that round. Prints a table; the input of each finding lies below ``build/fuzz``, with what was said.
"""

import argparse
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parents[1] / "build" / "fuzz"
TESTS = [*sorted(HERE.glob("test_*.py")), HERE.parent / "test_invariants.py"]
ROUND = 60.0  # the most seconds of tries in a round; its last try may take longer
SHORTEST = 5.0  # seconds that are worth a round


def run_round(test: Path, number: int, limit: float) -> tuple[int, int, str | None, float]:
    """Run one kind in a process, for ``limit`` seconds.

    Returns:
        tries, whether something was found, what, and how long it took.
    """
    folder = OUTPUT / f"{test.stem.removeprefix('test_')}-{number}"
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-x", str(test), "-p", "no:cacheprovider", "-p", "no:xdist"),
        f"--hypothesis-seed={secrets.randbits(32)}",
    ]
    environment = {**os.environ, "SIMMAP_FUZZ": str(folder), "SIMMAP_FUZZ_SECONDS": str(limit)}
    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, check=False
    )
    seconds = time.monotonic() - started
    made = sum(path.stat().st_size for path in folder.glob("*.tries"))
    if done.returncode == 0:
        shutil.rmtree(folder)
        return made, 0, None, seconds
    (folder / "output.txt").write_text(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    errors = re.findall(r"^(?:E| *\|) +(\w*(?:Error|Exception|Interrupt)\b.*)", done.stdout, re.MULTILINE)
    return made, 1, errors[-1][:150] if errors else f"ended with exit code {done.returncode}", seconds


def main() -> int:
    """Run until the minutes are over, each kind at least once; the exit code: whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", nargs="*", help="names of test files, without test_ and .py")
    arguments = parser.parse_args()
    tests = [t for t in TESTS if not arguments.kinds or t.stem.removeprefix("test_") in arguments.kinds]
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    workers = arguments.processes
    end = time.monotonic() + 60 * arguments.minutes
    numbers = count()  # of the rounds, which all workers share, so that the kinds take turns
    totals = {test: [0, 0, 0.0] for test in tests}
    findings: dict[tuple[str, str], int] = {}

    def work() -> None:
        for number in numbers:
            left = end - time.monotonic()
            if left < SHORTEST and number >= len(tests):  # each kind has had a round
                return
            turn = number % len(tests)
            test = tests[turn]
            # Half of what is left is shared by the kinds to come: a round takes longer than its tries.
            share = left * workers / (2 * (len(tests) - turn))
            made, found, what, seconds = run_round(test, number, max(SHORTEST, min(ROUND, left, share)))
            for at, value in enumerate((made, found, seconds)):
                totals[test][at] += value
            if what is not None:
                key = (test.stem.removeprefix("test_"), what)
                findings[key] = findings.get(key, 0) + 1

    with ThreadPoolExecutor(workers) as pool:
        for ended in [pool.submit(work) for _ in range(workers)]:
            ended.result()
    print(f"{'kind':16} {'tries':>9} {'rounds that found something':>28} {'seconds':>8}")
    for test, (made, found, seconds) in totals.items():
        print(f"{test.stem.removeprefix('test_'):16} {made:>9} {found:>28} {seconds:>8.0f}")
    for (kind, what), times in sorted(findings.items()):
        print(f"{kind}: {what} ({times} times)")
    if findings:
        print(f"inputs and reports: {OUTPUT}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
