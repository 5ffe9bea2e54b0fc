"""All benchmarks in one table: ``make bench``, or ``python tests/benchmarks/bench.py [--only NAME ...]``.

Each row is a ratio of two things that took turns, with its quartiles and, where there is one, the figure that
it should reach. What lacks a package or fails says so in its row; a failure is also the exit code 1.
"""

import json
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path

from common import Row, Settings, Watch, options_of, parser, plain, report, skipped
from simmap.engine.files import check_output, write_bytes

NAMES = (
    "throughput",
    "calls",
    "arithmetic",
    "decoding",
    "decomposition",
    "precision",
    "transformers",
    "search",
    "stores",
    "peers",
    "process",
    "growth",
    "gpu",
    "serving",
)
PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "torch", "timm")


def main() -> int:
    """Print the table; 1 if a benchmark failed."""
    made = parser(__doc__)
    made.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    arguments = made.parse_args()
    options = options_of(arguments)
    for path in filter(None, (options.json, options.plot)):
        check_output(path, force=True)
    watch, failed, rows = Watch(), list[str](), list[Row]()
    about = machine()
    print("; ".join(f"{name} {value}" for name, value in about.items()), flush=True)

    def kept() -> Iterator[Row]:
        for name in arguments.only:
            for row in rows_of(name, options, failed):
                rows.append(row)
                yield row

    report(kept(), replace(options, json=None))
    others = watch.others()
    print(f"other processes used {others:.1f} CPUs on average")
    if options.json:
        content = {"machine": about, "others_cpus": others, "rows": [plain(row) for row in rows]}
        write_bytes(options.json, json.dumps(content, indent=1).encode() + b"\n", force=True)
    return 1 if failed else 0


def rows_of(name: str, options: Settings, failed: list[str]) -> Iterator[Row]:
    """A benchmark's rows; one that tells why, where a package is missing or something went wrong."""
    try:
        yield from import_module(name).rows(options)
    except Exception as error:  # the other benchmarks still run
        package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if package not in ("", "simmap", *NAMES):
            yield skipped(name, f"{package} not installed")
            return
        traceback.print_exc()
        failed.append(name)
        yield skipped(name, f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
    found = {"CPUs": f"{cpus} of {model}", "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
