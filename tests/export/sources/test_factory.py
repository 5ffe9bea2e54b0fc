"""Networks of a user's own module: what is taken, and every way that one fails."""

from pathlib import Path

import pytest

from simmap.engine.errors import ConfigError, ExportError
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe
from simmap.export.sources.networks import build
from simmap.export.sources.source import open_source


def test_a_factory_keeps_its_output(factory: str) -> None:
    network = build("module", f"{factory}:Net", weights=None)
    assert (network.outputs, network.is_classifier, network.mean) == (("output",), False, None)
    assert not network.takes_one_size and not network.module.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent_module:Net", "absent_module.*cannot be imported"),
        ("{}:Nett", "no 'Nett'; close to it: Net"),
        ("{}:number", "is int, not a function"),
        ("{}:broken", "failed .ValueError: no such width"),
        ("{}:nothing", "gave NoneType, not a torch.nn.Module"),
        ("{}:spoilt", "'conv.weight' hold NaN"),
    ],
)
def test_bad_factories(factory: str, name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build("module", name.format(factory), weights=None)


@pytest.mark.parametrize("name", ["{}:leave", "leaver_{}:Net", "{}:Leaving"])
def test_code_that_ends_the_program_is_no_success(factory: str, name: str, tmp_path: Path) -> None:
    recipe = load_recipe(None, {"module": name.format(factory), "size": 16})
    output = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match="its code ends the program; nothing was written"):
        export(recipe, output, trust=True)
    assert not output.exists()


def test_code_runs_only_if_it_is_trusted_and_is_announced(factory: str, tmp_path: Path) -> None:
    # given a module that leaves a mark when it is imported
    code = "open('ran', 'w').close()\nfrom torch.nn import Identity as Net\n"
    (tmp_path / f"mark_{factory}.py").write_text(code)
    recipe = load_recipe(None, {"module": f"mark_{factory}:Net", "size": 16})
    lines: list[str] = []
    # when it is not trusted, then it does not run
    with pytest.raises(ConfigError, match=r"would run that module's code; if you trust it, add --trust"):
        export(recipe, tmp_path / "net.onnx", progress=lines.append)
    assert not (tmp_path / "ran").exists() and lines == []
    # when it is trusted, it does, and is told first
    with pytest.raises(ExportError):
        export(recipe, tmp_path / "net.onnx", trust=True, progress=lines.append)
    assert (tmp_path / "ran").exists()
    assert lines[0] == f"running code: the module mark_{factory}:Net"


def test_a_network_of_unknown_size_is_exported_at_224(factory: str) -> None:
    source = open_source(load_recipe(None, {"module": f"{factory}:Net"}))
    assert source.graph.size == source.preprocessing["size"] == (224, 224)
    assert (source.embedding, source.pool, source.conv_layer) == ("output", None, None)
