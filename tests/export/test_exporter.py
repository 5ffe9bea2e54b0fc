"""From a recipe to a file: the gate, what it writes down, what it refuses, and the artifacts of the tests."""

import importlib.util
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import networks
from networks import Net
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ConfigError, ExportError, OutputError
from simmap.engine.runtime.session import open_session
from simmap.export import gate
from simmap.export.draft import Draft
from simmap.export.exporter import Report, export
from simmap.export.recipe import load_recipe
from simmap.export.sources.reference import onnx_reference
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.exposing import expose
from simmap.export.surgery.graph import Graph
from simmap.export.surgery.maps import map_graph

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
SPEC = InputSpec(height=16, width=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def load_make() -> Any:
    """The script that makes the committed artifacts."""
    spec = importlib.util.spec_from_file_location("make_artifacts", ARTIFACTS / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()


def write(model: onnx.ModelProto, folder: Path) -> Path:
    """Save a source network."""
    path = folder / "source.onnx"
    onnx.save(model, str(path))
    return path


def run_export(path: Path, output: Path, *, force: bool = False, **flags: Any) -> Report:
    """Export an ONNX file with known mean and std."""
    flags = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], **flags}
    return export(load_recipe(None, {"onnx": str(path), **flags}), output, force=force)


def checks_of(network: networks.Network, change: Any) -> list[gate.Check]:
    """Send an artifact's graph through the gate after ``change`` has been at it."""
    graph = Graph(network.model, name="tiny.onnx", size=None)
    exposure = analyse(graph)
    model = expose(graph, exposure, SPEC)
    change(model)
    draft = Draft(model, map_graph(exposure, dynamic=False), exposure, SPEC, "fp32")
    return gate.check(draft, onnx_reference(graph, exposure))


def scale(name: str, factor: float) -> Any:
    """Multiply the weights whose name starts with ``name``."""

    def change(model: onnx.ModelProto) -> None:
        weight = next(w for w in model.graph.initializer if w.name.startswith(name))
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name)
        )

    return change


def reorder(name: str, perm: list[int]) -> Any:
    """Give the Transpose behind ``name`` another order of axes."""

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "Transpose" and n.output[0] == name)
        node.attribute[0].ints[:] = perm

    return change


def swap(name: str, kind: str) -> Any:
    """Replace the operator that gives ``name``."""

    def change(model: onnx.ModelProto) -> None:
        next(n for n in model.graph.node if n.output[0] == name).op_type = kind

    return change


def reread(name: str, weight: str) -> Any:
    """Let the operator that gives ``name`` read another weight."""

    def change(model: onnx.ModelProto) -> None:
        next(n for n in model.graph.node if n.output[0] == name).input[1] = weight

    return change


CORRUPTIONS: dict[str, tuple[Any, Any, str]] = {
    "trunk": (lambda: networks.tail("Flatten", "Gemm"), scale("weight_1", 1.01), "conv"),
    "normalisation": (lambda: networks.tail("Flatten", "Gemm"), scale("simmap/scale", 1.01), "conv"),
    "head": (lambda: networks.tail("Flatten", "Gemm"), scale("simmap/head", 1.01), "embedding"),
    "bias": (lambda: networks.tail("Flatten", "Gemm"), scale("simmap/bias", 0.0), "embedding = sum"),
    "pooling": (
        lambda: networks.tail("Flatten", "Gemm"),
        swap("simmap/beta_avg", "GlobalMaxPool"),
        "pooled = pool",
    ),
    "places": (
        lambda: networks.tail("Flatten", "Gemm"),
        reorder("simmap/shared_last", [0, 3, 2, 1]),
        "parts",
    ),
    "places of a flattened map": (
        lambda: networks.attention(last=True),
        reorder("parts", [0, 3, 2, 1]),
        "parts",
    ),
    "gate": (networks.gated, scale("simmap/tail/step0/matrix", 1.01), "embedding"),
    "gate of the parts": (networks.gated, swap("simmap/tail/step1/parts", "Add"), "parts"),
    "weights of the parts": (
        networks.gated,
        reread("simmap/tail/step0/linear_parts", "simmap/tail/step2/matrix"),
        "parts",
    ),
    "attention": (networks.attended, swap("simmap/place_parts", "Sub"), "parts"),
    "not a number": (lambda: networks.tail("Flatten", "Gemm"), scale("simmap/head", np.nan), "embedding"),
    "infinite": (lambda: networks.tail("Flatten", "Gemm"), scale("weight_1", np.inf), "conv"),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_gate_refuses_what_computes_something_else(name: str) -> None:
    build, change, output = CORRUPTIONS[name]
    gate.require(checks_of(build(), lambda model: None))
    checks = checks_of(build(), change)
    assert any(c.name.startswith(output) and not c.passed for c in checks)
    with pytest.raises(
        ExportError, match=r"^the artifact differs from its source in .*nothing was written$"
    ) as error:
        gate.require(checks)
    assert re.search(r"by \S+ \(relative \S+, tolerance \S+\)", str(error.value))


def test_gate_refuses_maps_of_another_pooling() -> None:
    for name, other in (("avg", "max"), ("max", "avg"), ("gem", "avg")):
        kind = {"avg": "GlobalAveragePool", "max": "GlobalMaxPool"}
        network = networks.gem(2.5) if name == "gem" else networks.pooled_only(kind[name])
        graph = Graph(network.model, name="tiny.onnx", size=None)
        exposure = analyse(graph)
        height, width = graph.size
        spec = replace(SPEC, height=height, width=width)
        for pooling, passes in ((name, True), (other, False)):
            maps = map_graph(replace(exposure, pooling=pooling), dynamic=False)
            model = expose(graph, exposure, spec)
            checks = gate.check(Draft(model, maps, exposure, spec, "fp32"), None)
            assert all(c.passed for c in checks if c.name == "maps") == passes
            assert all(c.passed for c in checks if c.name != "maps")


def test_gate_looks_at_random_and_real_images_in_both_batches() -> None:
    checks = checks_of(networks.tail("Flatten", "Gemm"), lambda model: None)
    assert {(c.images, c.batch) for c in checks} == {("random", 1), ("random", 3), ("real", 1), ("real", 3)}
    for images, batch in {(c.images, c.batch) for c in checks}:
        names = {c.name for c in checks if (c.images, c.batch) == (images, batch)}
        assert names == {
            "conv",
            "pooled",
            "embedding",
            "parts",
            "pooled = pool(conv)",
            "embedding = sum(parts)",
            "maps",
        }


def test_gate_notices_a_batch_that_is_mixed() -> None:
    # Right at batch 1, wrong at batch 3: the images change places.
    backwards = {"starts": -1, "ends": -(2**31), "axes": 0, "steps": -1}

    def change(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        place = next(i for i, node in enumerate(nodes) if node.output[0] == "conv")
        nodes[place].output[0] = "in_order"
        nodes.insert(place + 1, onnx.helper.make_node("Slice", ["in_order", *backwards], ["conv"]))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        for name, value in backwards.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array([value], dtype=np.int64), name))

    checks = checks_of(networks.tail("Flatten", "Gemm"), change)
    assert all(c.passed for c in checks if c.batch == 1)
    assert any(c.name == "conv" and not c.passed for c in checks if c.batch == 3)


def permuted() -> onnx.ModelProto:
    """Features shuffled behind the pool by Reshape and Transpose, which surgery takes for notation."""
    net = Net()
    x = net.op("Reshape", net.op("GlobalAveragePool", net.trunk()), net.ints(-1, 2, 4))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1]), net.ints(-1, 8))
    out, _, _ = net.gemm(x, 8, 5)
    return net.done(out)


def broken() -> onnx.ModelProto:
    """One weight of the trunk is NaN."""
    model = networks.tail("Flatten", "Gemm").model
    weight = model.graph.initializer[0]
    value = numpy_helper.to_array(weight).copy()
    value[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    return model


@pytest.mark.parametrize(("build", "told"), [(permuted, "embedding"), (broken, "conv")])
def test_refused_export_leaves_the_old_file(build: Any, told: str, tmp_path: Path) -> None:
    source = write(build(), tmp_path)
    output = tmp_path / "out.onnx"
    for content in (None, b"what was there before"):
        if content is not None:
            output.write_bytes(content)
        with pytest.raises(
            ExportError, match=rf"differs from its source in .*{told}.* tolerance .*nothing was written"
        ):
            run_export(source, output, force=True)
        assert output.exists() == (content is not None)
        assert content is None or output.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "source.onnx"]


def test_figures_are_kept(tmp_path: Path) -> None:
    report = run_export(write(networks.tail("Flatten", "Gemm").model, tmp_path), tmp_path / "out.onnx")
    parity = open_session(report.path, device="cpu").contract.parity
    assert set(parity) == {c.name for c in report.checks}
    for name, figures in parity.items():
        mine = [c for c in report.checks if c.name == name]
        assert figures["absolute"] == max(c.absolute for c in mine)
        assert figures["relative"] == max(c.relative for c in mine)
        assert 0 <= figures["relative"] <= figures["tolerance"] <= 1e-3
    assert any(figures["relative"] > 0 for figures in parity.values())


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    source = write(networks.pooled_only().model, tmp_path)
    old = tmp_path / "old.onnx"
    old.write_bytes(b"old")
    (tmp_path / "folder.onnx").mkdir()
    for output in (old, tmp_path / "folder.onnx", tmp_path / "none" / "out.onnx", source / "out.onnx"):
        with pytest.raises(
            OutputError, match=re.escape(str(output if output == old else output.parent)[:20])
        ):
            run_export(source, output)
    assert old.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.onnx", "old.onnx", "source.onnx"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    source = write(networks.pooled_only().model, tmp_path)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError):
        run_export(source, tmp_path / "locked" / "out.onnx")


def test_force_replaces(tmp_path: Path) -> None:
    source = write(networks.pooled_only().model, tmp_path)
    output = tmp_path / "out.onnx"
    output.write_bytes(b"old")
    report = run_export(source, output, force=True)
    assert open_session(output, device="cpu").contract == report.contract
    assert report.size == output.stat().st_size
    assert report.nodes == len(onnx.load(str(output)).graph.node)


def test_recipe_reaches_the_contract(tmp_path: Path) -> None:
    write(networks.pooled_only().model, tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "onnx: source.onnx\nmean: [0.1, 0.2, 0.3]\nstd: [0.5, 0.6, 0.7]\ncolour: bgr\nresize: crop\n"
        "kernel: cubic\ncrop_fraction: 0.9\n"
    )
    lines: list[str] = []
    report = export(load_recipe(recipe, {"kernel": "linear"}), tmp_path / "out.onnx", progress=lines.append)
    assert asdict(report.contract.input) == {
        "height": 16, "width": 16, "dynamic": False, "colour": "bgr", "resize": "crop", "kernel": "linear",
        "crop_fraction": 0.9, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7),
    }  # fmt: skip
    assert report.notes == ()
    assert report.contract.source["kind"] == "onnx" and report.contract.source["name"] == "source.onnx"
    assert [line.split()[0] for line in lines] == ["building", "looking", "feature", "checking", "writing"]


def test_recipe_without_a_source() -> None:
    with pytest.raises(ConfigError, match="give one source"):
        load_recipe(None, {"size": 224})


def test_weights_in_a_file_beside_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    network = networks.tail("Flatten", "Gemm")
    onnx.save_model(
        network.model,
        str(folder / "big.onnx"),
        save_as_external_data=True,
        location="big.bin",
        size_threshold=0,
    )
    report = run_export(folder / "big.onnx", tmp_path / "out.onnx")
    (folder / "big.bin").unlink()
    image = np.random.default_rng(0).integers(0, 256, size=(2, 16, 16, 3), dtype=np.uint8)
    (embedding,) = open_session(report.path, device="cpu").inference.run(["embedding"], {"image": image})
    same = run_export(write(networks.tail("Flatten", "Gemm").model, tmp_path), tmp_path / "same.onnx")
    (other,) = open_session(same.path, device="cpu").inference.run(["embedding"], {"image": image})
    assert np.array_equal(embedding, other)
    assert report.contract.fingerprint == same.contract.fingerprint


def test_fingerprint(tmp_path: Path) -> None:
    def of(model: onnx.ModelProto, **flags: Any) -> str:
        return run_export(
            write(model, tmp_path), tmp_path / "out.onnx", force=True, **flags
        ).contract.fingerprint

    model = networks.tail("Flatten", "Gemm").model
    first = of(model)
    renamed = networks.tail("Flatten", "Gemm").model
    for node in renamed.graph.node:
        node.name = f"other_{node.name}"
        node.input[:] = [f"other_{i}" for i in node.input]
        node.output[:] = [f"other_{o}" for o in node.output]
    for value in [*renamed.graph.input, *renamed.graph.output, *renamed.graph.initializer]:
        value.name = f"other_{value.name}"
    assert of(renamed) == first
    assert of(model, mean=[0.5, 0.5, 0.5]) != first
    assert of(model, colour="bgr") != first
    assert of(model, embedding="pooled") != first
    scale("weight_1", 1.5)(model)
    assert of(model) != first


@pytest.mark.parametrize("name", make.ARTIFACTS)
def test_committed_artifact_is_what_is_made(name: str, tmp_path: Path) -> None:
    committed = ARTIFACTS / f"{name}.onnx"
    assert committed.stat().st_size < 30_000
    old = open_session(committed, device="cpu", threads=1)
    new = open_session(make.make(name, tmp_path), device="cpu", threads=1)
    assert new.graph is not None and old.graph is not None
    changing = {"versions", "parity", "source"}
    facts = [{k: v for k, v in asdict(s.contract).items() if k not in changing} for s in (old, new)]
    assert facts[0] == facts[1]
    spec = old.contract.input
    sizes = [(spec.height, spec.width), *([(26, 34)] if spec.dynamic else [])]
    for size in sizes:
        images = np.random.default_rng(0).integers(0, 256, size=(2, *size, 3), dtype=np.uint8)
        for found, expected in zip(
            *(s.inference.run(None, {"image": images}) for s in (new, old)), strict=True
        ):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_every_committed_artifact_is_made() -> None:
    assert {p.stem for p in ARTIFACTS.glob("*.onnx")} == set(make.ARTIFACTS)


def test_what_nobody_knows_is_taken_as_for_imagenet_and_told(tmp_path: Path) -> None:
    source = write(networks.pooled_only().model, tmp_path)
    spec = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for given in (
        {},
        {"mean": [0.1, 0.2, 0.3]},
        {"std": [1, 2, 3]},
        {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]},
    ):
        report = export(load_recipe(None, {"onnx": str(source), **given}), tmp_path / "out.onnx", force=True)
        told = any("ImageNet's are taken" in note for note in report.notes)
        assert told == (len(given) < 2)
        expected = {**spec, **{key: tuple(value) for key, value in given.items()}}
        assert {key: getattr(report.contract.input, key) for key in spec} == expected
