"""``simmap pair`` and ``simmap export --pair``, and what every command says of a pair graph."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import ARTIFACTS, PHOTOS, Simmap, failed, report

PAIR = ARTIFACTS / "pair" / "affine_bias.onnx"
OUTPUTS = ["score", "map_a", "map_b", "residual_a", "residual_b", "influence_a", "influence_b"]
A, B = sorted(PHOTOS.glob("*.jpg"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", A, B, "--model", PAIR],
        ["index", "build", PHOTOS, "-o", "ix", "--model", PAIR],
        ["class", PHOTOS, "-o", "c.png", "--model", PAIR],
        ["contrast", A, B, "-o", "c.png", "--model", PAIR],
        ["evaluate", PHOTOS, "--model", PAIR],
    ],
)
def test_a_pair_graph_is_no_artifact(simmap: Simmap, arguments: list[object]) -> None:
    failed(
        simmap(*arguments), f"{PAIR}: is a pair graph, which other runtimes run by themselves; give the artif"
    )


def test_inspect_describes_a_pair_graph(simmap: Simmap) -> None:
    lines = simmap("inspect", PAIR).stdout.splitlines()
    facts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}
    assert facts["pair graph"] == str(PAIR)
    assert facts["inputs"] == "a, b: uint8 RGB, 16 x 16 (height x width)"
    assert facts["outputs"] == ", ".join([*OUTPUTS, "points"])
    assert facts["parity"].startswith("with the engine on real photos: at most ")
    assert facts["pooling"] == "avg" and facts["head"] == "affine with a bias"
    described = report(simmap("inspect", PAIR, "--json"))
    artifact = report(simmap("inspect", ARTIFACTS / "affine_bias.onnx", "--json"))
    del artifact["graph"]  # the digest of another graph
    pair = described.pop("pair")
    assert pair["points"] and not pair["photo"] and pair["outputs"] == [*OUTPUTS, "points"]
    assert {**described, "model": 0} == {**artifact, "model": 0}


def test_without_onnx_the_packages_are_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['onnx'] = None\nfrom simmap.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["pair", str(ARTIFACTS / "avg.onnx"), "-o", str(tmp_path / "pair.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pair needs more packages: pip install 'simmap[export]'" in done.stderr


def test_pair_writes_a_graph_and_reports_it(simmap: Simmap, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = ARTIFACTS / "gem.onnx"
    done = simmap("pair", model, "-o", "pair.onnx", "--points", "--json")
    made = json.loads(done.stdout)
    assert made["outputs"] == [*OUTPUTS, "points"] == list(made["parity"])
    assert made["opset"] == 17 and made["points"] and not made["photo"]
    assert made["bytes"] == (tmp_path / "cwd" / "pair.onnx").stat().st_size
    assert made["fingerprint"] == report(simmap("inspect", model, "--json"))["fingerprint"]
    assert done.stderr.count("\n") == 3 and "- checking against the engine" in done.stderr
    failed(simmap("pair", model, "-o", "pair.onnx"), "pair.onnx: exists already; add --force")
    done = simmap("pair", model, "-o", "pair.onnx", "--photo", "--force")
    assert done.stdout.splitlines()[0].startswith("score") and "opset 17" in done.stdout
    assert "photos of any size, which it resizes to 16 x 24" in simmap("inspect", "pair.onnx").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx", "-o", "p.onnx"], "none.onnx: no such model file"),
        ([PHOTOS, "-o", "p.onnx"], "is a folder; give the .onnx file in it"),
        ([A, "-o", "p.onnx"], "is not an ONNX model"),
        ([ARTIFACTS / "avg.onnx", "-o", "none/p.onnx"], "the folder none does not exist"),
        ([PAIR, "-o", "p.onnx"], "is a pair graph"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    simmap: Simmap, tmp_path: Path, arguments: list[object], message: str
) -> None:
    pytest.importorskip("onnx")
    failed(simmap("pair", *arguments), message)
    assert list((tmp_path / "cwd").iterdir()) == []


def test_export_writes_the_pair_graph_too(simmap: Simmap, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, [1, 3, 8, 8])], [value("y", 1, [1, 4, 1, 1])], [weight]
    )
    folder = tmp_path / "cwd"
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "net.onnx")
    command = ["export", "--onnx", "net.onnx", "-o", "out.onnx"]
    done = simmap(*command, "--pair", "pair.onnx", "--json")
    made = json.loads(done.stdout)
    assert made["pair"]["fingerprint"] == made["contract"]["fingerprint"]
    assert report(simmap("inspect", "pair.onnx", "--json"))["pair"]["outputs"] == OUTPUTS
    failed(simmap(*command, "--force", "--pair", "net.onnx"), "net.onnx: is an input")
    failed(simmap(*command, "--force", "--pair", "out.onnx"), "out.onnx: two outputs would be this file")
    failed(simmap("export", "--onnx", "net.onnx", "-o", "new.onnx", "--pair", "pair.onnx"), "exists already")
    assert not (folder / "new.onnx").exists()
