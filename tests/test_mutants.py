"""Every mutant is another program than the original, and the sites are what was asked for."""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def load(name: str) -> Any:
    """A module of the folder ``mutation``, which is on no path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "mutation" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants, calls = load("mutants"), load("calls")

SOURCE = """
@dataclass(frozen=True)
class Pair:
    limit: int = 3

    def ends(self, names: list[int] = [1]) -> bool:
        assert self.limit < 5
        if self.limit <= 4 and not names:
            raise ValueError(f"{1 + 1}")
        return [a + b for a, b in zip(names, names, strict=True)] == -self.limit
"""


def test_what_is_changed_and_what_is_left_alone() -> None:
    found = [(site.line, site.change, site.function) for site in mutants.sites(SOURCE)]
    inside = "Pair.ends"
    assert found == [
        (4, "3 + 1", ""),
        (6, "1 + 1", ""),
        (8, "4 + 1", inside),
        (8, "LtE -> Lt", inside),
        (8, "Not dropped", inside),
        (8, "And -> Or", inside),
        (10, "Add -> Sub", inside),
        (10, "USub dropped", inside),
        (10, "Eq -> NotEq", inside),
    ]


@pytest.mark.parametrize("source", [SOURCE, Path(mutants.__file__).read_text()], ids=["short", "long"])
def test_every_mutant_is_another_program(source: str) -> None:
    whole = ast.unparse(ast.parse(source))
    changed = [mutants.mutant(source, number) for number in range(len(mutants.sites(source)))]
    assert len({whole, *changed}) == len(changed) + 1
    for one in changed:
        compile(one, "mutant", "exec")
    assert mutants.mutant(source, len(changed)) == whole


NESTED = """
def outer():
    'What it does.'
    def inner(): return 1
    return inner

class Pair:
    @property
    def ends(self): return 2
"""


def test_functions_write_down_their_names_as_sites_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calls", calls)
    monkeypatch.setattr(calls, "current", set())
    names: dict[str, Any] = {}
    exec(calls.noting(NESTED, "x.py"), names)
    assert calls.current == set()
    inner = names["outer"]()
    assert calls.current == {"x.py:outer"} and names["outer"].__doc__ == "What it does."
    assert (inner(), names["Pair"]().ends) == (1, 2)
    assert calls.current == {"x.py:outer", "x.py:outer.<locals>.inner", "x.py:Pair.ends"}
    assert {f"x.py:{site.function}" for site in mutants.sites(NESTED)} < calls.current
