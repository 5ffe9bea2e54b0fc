"""The gate's figures, written out by hand."""

import numpy as np
import pytest

import networks
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ExportError
from simmap.export import gate
from simmap.export.draft import Draft
from simmap.export.gate import Check
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.exposing import expose
from simmap.export.surgery.graph import Graph
from simmap.export.surgery.maps import map_graph


def draft_of(network: networks.Network, reference: np.ndarray | None = None, **spec: object) -> Draft:
    graph = Graph(network.model, name="net", size=None)
    exposure = analyse(graph)
    given = InputSpec(
        **{"height": graph.size[0], "width": graph.size[1], "mean": (0, 0, 0), "std": (1, 1, 1), **spec}
    )
    maps = map_graph(exposure, dynamic=given.dynamic)
    return Draft(expose(graph, exposure, given), maps, exposure, given, "fp32", reference)


def one(relative: float, tolerance: float = 1e-4, name: str = "conv") -> Check:
    return Check(name, "real", 3, 2 * relative, relative, tolerance)


def test_a_figure_at_its_tolerance_passes() -> None:
    gate.require([one(1e-4), one(0.0, 0.0)])
    for bad in (one(1.01e-4), one(float("nan")), one(float("inf")), one(1e-9, 0.0, "embedding")):
        with pytest.raises(ExportError, match="nothing was written"):
            gate.require([one(0.0), bad])


def test_the_worst_figure_for_its_tolerance_is_told_and_every_name() -> None:
    checks = [one(3e-4), one(1e-3, 2e-4, "pooled"), one(2e-2, 1.5e-2, "parts"), one(0.0, name="maps")]
    with pytest.raises(
        ExportError, match=r"in conv, parts, pooled: pooled on real images at batch 3"
    ) as error:
        gate.require(checks)
    assert "by 0.002 (relative 0.001, tolerance 0.0002)" in str(error.value)
    assert "use precision" not in str(error.value)
    with pytest.raises(ExportError, match=r"use precision fp16 or fp32, nothing was written$"):
        gate.require(checks, precision="fp16-cuda")
    with pytest.raises(ExportError, match="embedding on real images"):
        gate.require([*checks, one(float("nan"), name="embedding")])


def test_the_summary_has_the_largest_of_each() -> None:
    checks = [Check("conv", "real", 1, 3.0, 1e-5, 1e-4), Check("conv", "random", 3, 2.0, 2e-5, 1e-4), one(0)]
    assert gate.summary(checks)["conv"] == {"absolute": 3.0, "relative": 2e-5, "tolerance": 1e-4}


def test_differences_are_relative_to_the_largest_number_of_the_source() -> None:
    ours, theirs = np.array([[1.0, -3.0]]), np.array([[1.5, -4.0]])
    check = gate._compare("conv", "real", ours, theirs, 0.25)
    assert (check.absolute, check.relative, check.batch, check.passed) == (1.0, 0.25, 1, True)
    zero = gate._compare("conv", "real", ours, np.zeros((1, 2)), 0.5)
    assert (zero.absolute, zero.relative) == (3.0, 3.0)
    with pytest.raises(ExportError, match=r"conv has shape \(1, 2\), its source gives \(2,\)"):
        gate._compare("conv", "real", ours, theirs[0], 1.0)


def test_a_dynamic_artifact_is_proven_at_a_second_size() -> None:
    fixed, dynamic = draft_of(networks.pooled_only()), draft_of(networks.pooled_only(), dynamic=True)
    assert fixed.sizes == ((16, 16),)
    assert dynamic.sizes == ((16, 16), (48, 80))
    assert {c.images for c in gate.check(dynamic, None)} == {
        f"{kind} {size}" for kind in ("random", "real") for size in ("16x16", "48x80")
    }


def test_the_rest_of_a_gated_tail_is_a_share_of_the_similarity_with_itself() -> None:
    # LeakyRelu's gates are positive, so with biases of zero places own everything.
    net = networks.Net()
    x = net.flat(net.op("GlobalAveragePool", net.trunk()))
    y = net.op("Gemm", x, net.store(net.draw(5, 8)), transB=1)
    y = net.op("LeakyRelu", y, alpha=0.3)
    plain = networks.Network(net.done(y), "", "avg", networks.average, None)
    assert gate.rest_share(draft_of(plain)) == pytest.approx(0, abs=1e-5)
    # With a feature that is held at 1 beside those of the places, 1 / |e|^2 of it is the rest.
    net = networks.Net()
    x = net.flat(net.op("GlobalAveragePool", net.trunk()))
    y = net.op("Sigmoid", net.op("Mul", x, net.store(0.0)))  # 1/2, whatever the image
    y = net.op("Mul", net.op("Add", net.op("Mul", x, net.store(0.0)), net.store(1.0)), y)
    constant = networks.Network(net.done(y), "", "avg", networks.average, None)
    assert gate.rest_share(draft_of(constant)) == pytest.approx(1, abs=1e-5)


def test_the_reference_is_added_to_the_constant_rest() -> None:
    network = networks.tail("Flatten", "Gemm")
    draft = draft_of(network)
    constant = draft.bias
    assert constant is not None
    reference = np.arange(8 * 8 * 6, dtype=np.float32).reshape(8, 8, 6)
    moved = draft_of(network, reference).bias
    np.testing.assert_allclose(moved, constant + reference.sum(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_array_equal(draft_of(network, np.zeros((8, 8, 6), np.float32)).bias, constant)
