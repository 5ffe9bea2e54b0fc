"""What the benchmarks share: ratios of two things that take turns, a look at who else is busy, a table.

A row is a ratio first / second. Both sides run in turns, so that what else the machine does hits both, and
each turn gives one ratio; the row shows their median and quartiles. One-thread rows count CPU time, which
other processes hardly touch. Many-thread rows need wall time, and so a quiet machine: where other processes
were busy, the row says so.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "efficientnet_lite0.onnx"
PHOTOS = ROOT / "models" / "photos"
SAMPLES = ROOT / "tests" / "photos"

TURN_SECONDS = 0.05  # a turn repeats what is shorter
QUIET = 0.1  # CPUs that other processes may use


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        images: folder of the photos.
        turns: measurements of each side.
        full: also the rows that take minutes.
        json: the file for the figures, or None.
        plot: the file for a plot, or None.
        model: the artifact, where a benchmark takes any.
    """

    images: Path = PHOTOS
    turns: int = 15
    full: bool = False
    json: Path | None = None
    plot: Path | None = None
    model: Path = MODEL


@dataclass(frozen=True)
class Row:
    """A ratio.

    Attributes:
        name: what over what.
        low, median, high: the median and the quartiles; NaN where nothing was measured.
        expected: what it should be, such as ``<= 1.03``.
        note: what a reader must know, such as absolute figures.
        figures: further numbers, for the JSON only.
    """

    name: str
    low: float
    median: float
    high: float
    expected: str = ""
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def skipped(name: str, why: str) -> Row:
    """A row without figures."""
    return Row(name, np.nan, np.nan, np.nan, note=why)


def quartiles(values: npt.NDArray[np.float64] | list[float]) -> tuple[float, float, float]:
    """The first, the median and the third."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return low, median, high


def compare(
    name: str,
    first: Callable[[], object],
    second: Callable[[], object],
    expected: str,
    options: Settings,
    *,
    note: str = "",
    turns: int | None = None,
    wall: bool = False,
    scale: float = 1.0,
) -> Row:
    """The row of ``first`` over ``second``, which take turns.

    Args:
        name: of the row.
        first, second: what is timed.
        expected: of the ratio.
        options: for the number of turns.
        note: goes before what is found.
        turns: instead of the options'.
        wall: wall time, for work on many threads, instead of the process's CPU time.
        scale: factor of the ratio, where the sides do different amounts of work.
    """
    watch = Watch()
    clock = time.perf_counter if wall else time.process_time
    seconds = in_turns([first, second], turns or options.turns, clock)
    middle = np.median(seconds, axis=0) * 1e3
    told = [note, f"{middle[0]:.3g} ms / {middle[1]:.3g} ms" + (" wall" if wall else "")]
    if wall:
        told.append(watch.told())
    return Row(
        name,
        *quartiles(seconds[:, 0] / seconds[:, 1] * scale),
        expected,
        "; ".join(filter(None, told)),
        {"first_ms": float(middle[0]), "second_ms": float(middle[1]), "others_cpus": watch.others()},
    )


def in_turns(
    calls: list[Callable[[], object]], turns: int, clock: Callable[[], float] = time.process_time
) -> npt.NDArray[np.float64]:
    """(turns, len(calls)): seconds of one call. A first turn warms up and does not count.

    Every other turn goes through the calls backwards, so that a clock that falls or a cache that fills
    favours none. A call of less than ``TURN_SECONDS`` is repeated within its turn.
    """
    repeats = []
    for call in calls:
        call()
        started = time.perf_counter()
        call()
        repeats.append(max(1, round(TURN_SECONDS / max(time.perf_counter() - started, 1e-9))))
    seconds = np.empty((turns, len(calls)))
    for turn in range(turns):
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for at in order:
            started = clock()
            for _ in range(repeats[at]):
                calls[at]()
            seconds[turn, at] = (clock() - started) / repeats[at]
    return seconds


class Watch:
    """How busy other processes are, from the system's own counters (Linux)."""

    def __init__(self) -> None:
        """Begin."""
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float]:
        """Wall seconds, and CPU seconds of the machine that were not this process's or its children's."""
        counters = Path("/proc/stat")
        if not counters.exists():
            return time.perf_counter(), np.nan
        # user nice system idle iowait irq softirq steal; the rest is part of these.
        ticks = [int(value) for value in counters.read_text().split("\n", 1)[0].split()[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        mine = own.user + own.system + own.children_user + own.children_system
        return time.perf_counter(), busy - mine

    def others(self) -> float:
        """CPUs that others used on average since the start; NaN where the system does not say."""
        now, busy = self._read()
        return max(0.0, busy - self._start[1]) / max(now - self._start[0], 1e-9)

    def told(self) -> str:
        """What a row of wall times says of the machine; nothing where it was quiet."""
        others = self.others()
        if np.isnan(others):
            return "whether the machine was quiet is not known"
        return f"NOT QUIET: other processes used {others:.1f} CPUs" if others > QUIET else ""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of the options that all benchmarks take."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--images", type=Path, default=PHOTOS, help="folder of photos; else those that ship")
    made.add_argument("--model", type=Path, default=MODEL, help="an artifact; else the one that ships")
    made.add_argument("--turns", type=int, default=15, help="measurements of each side")
    made.add_argument("--full", action="store_true", help="also the rows that take minutes")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    made.add_argument("--plot", type=Path, help="write the plot, where there is one, to this file")
    return made


def options_of(arguments: argparse.Namespace) -> Settings:
    """The options among the arguments of ``parser``."""
    return Settings(**{item.name: getattr(arguments, item.name) for item in fields(Settings)})


def main(rows: Callable[[Settings], Iterable[Row]]) -> None:
    """Run a benchmark as a script."""
    options = options_of(parser(sys.modules["__main__"].__doc__).parse_args())
    report(rows(options), options)


def report(rows: Iterable[Row], options: Settings) -> None:
    """Print rows as they come; write them as JSON at the end."""
    print(f"{'ratio':60} {'median':>8}  {'quartiles':16} {'expected':9} note", flush=True)
    found = []
    for row in rows:
        found.append(row)
        print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": [plain(row) for row in found]}, indent=1) + "\n")


def line(row: Row) -> str:
    """Of the table."""
    if np.isnan(row.median):
        return f"{row.name:60} {'-':>8}  {'':16} {row.expected:9} {row.note}"
    spread = f"({row.low:.3g}, {row.high:.3g})"
    return f"{row.name:60} {row.median:8.3g}  {spread:16} {row.expected:9} {row.note}"


def plain(row: Row) -> dict[str, object]:
    """As JSON has it, which knows no NaN."""
    values = asdict(row)
    if np.isnan(row.median):
        values |= {"low": None, "median": None, "high": None}
    return values


def photos(options: Settings) -> Iterator[Path]:
    """The images of the folder, in order."""
    for path in sorted(options.images.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            yield path
