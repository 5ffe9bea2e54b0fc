"""What a command prints on standard output: JSON, or lines that a terminal can show."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from simmap.engine.errors import printable


def print_json(data: Any) -> None:
    """Print plain data as JSON."""
    # ensure_ascii stays on: a terminal's encoding must not break a report with names in any script.
    print(json.dumps(data, indent=2))


def print_line(text: str) -> None:
    """Print one line; control characters, which a name from a file may hold, are printed as escapes."""
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def print_step(line: str) -> None:
    """Say on standard error what is done next."""
    print(f"- {printable(line)}", file=sys.stderr)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print a name and its value a line, the values below one another."""
    facts = list(facts)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print_line(f"{name:{width}}  {printable(value)}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns of numbers (to the right, floats with four decimals) and names (to the left).

    A column whose values are all None is left out.
    """
    kept = list(rows)
    cells = [[name, *(_cell(row[at]) for row in kept)] for at, name in enumerate(columns)]
    shown = []
    for at, column in enumerate(cells):
        if kept and all(row[at] is None for row in kept):
            continue
        width = max(map(len, column))
        left = any(isinstance(row[at], str) for row in kept)
        shown.append([cell.ljust(width) if left else cell.rjust(width) for cell in column])
    for line in zip(*shown, strict=True):
        print_line("  ".join(line).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return printable(value) if isinstance(value, str) else str(value)
