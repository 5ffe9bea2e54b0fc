"""A network's own values in PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn

from simmap.engine.errors import ExportError
from simmap.export.sources.network import TorchNetwork
from simmap.export.sources.networks import build
from simmap.export.sources.running import example_batch, forward, nearest_intermediates


def test_the_nearest_is_a_copy_from_before_an_in_place_operation(factory: str) -> None:
    # given a network whose ReLU overwrites what BatchNorm gave
    network = build("module", f"{factory}:Net", weights=None)
    kept: list[np.ndarray] = []
    network.module.get_submodule("bn").register_forward_hook(lambda *a: kept.append(a[2].numpy().copy()))
    images = example_batch(2, (9, 11))
    forward(network, images)
    assert kept[0].min() < 0
    # when that tensor is wanted, and the ReLU's too
    wanted = {"before": kept[0], "after": np.maximum(kept[0], 0)}
    found, outputs = nearest_intermediates(network, images, wanted)
    # then both are there
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    assert outputs["output"].shape == (2, 5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NCL", "NLC", "tokens with a prefix", "NC"])
def test_the_nearest_is_found_in_every_layout(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(2, 4, 3, 5, generator=generator)

    tokens = alpha.flatten(2).transpose(1, 2)
    inner = {
        "NCHW": alpha,
        "NHWC": alpha.permute(0, 2, 3, 1).contiguous(),
        "NCL": alpha.flatten(2),
        "NLC": tokens,
        "tokens with a prefix": torch.cat((torch.zeros(2, 1, 4), tokens), 1),
        "NC": alpha.mean((2, 3)),
    }[layout]

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + (inner * 1).sum()  # the one tensor of a shape that is looked at

    wanted = alpha.mean((2, 3)) if layout == "NC" else alpha
    found, _ = nearest_intermediates(
        TorchNetwork(Inner(), "inner"), example_batch(2, (4, 4)), {"x": wanted.numpy()}
    )
    np.testing.assert_array_equal(found["x"], wanted.numpy())


def test_a_shape_that_is_never_computed_is_named(factory: str) -> None:
    network = build("module", f"{factory}:Net", weights=None)
    with pytest.raises(ExportError, match=r"no tensor of the shape \(1, 7, 2, 2\)"):
        nearest_intermediates(
            network, example_batch(1, (9, 11)), {"conv": np.zeros((1, 7, 2, 2), np.float32)}
        )


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("Pair", (9, 11), "its output is tuple"), ("Net", (1, 1), "forward pass fails at 1x1")],
)
def test_what_is_no_embedding_is_named(factory: str, name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        forward(build("module", f"{factory}:{name}", weights=None), example_batch(1, size))


class Gives(nn.Module):
    """Anything at all."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> object:
        return self.value


def test_an_embedding_may_be_written_as_a_map_of_one_place() -> None:
    vector, alpha = torch.ones(2, 5, 1, 1), torch.ones(2, 4, 1, 1)
    network = TorchNetwork(Gives((vector, alpha)), "net", ("output", "conv"))
    found = forward(network, example_batch(2, (4, 4)))
    assert found["output"].shape == (2, 5) and found["conv"].shape == (2, 4, 1, 1)


@pytest.mark.parametrize(
    ("value", "outputs", "told"),
    [
        (torch.ones(2, 5, 2, 1), ("output",), r"its output is \(2, 5, 2, 1\), not \(N, D\)"),
        (torch.ones(2, 5, 1, 2), ("output",), r"its output is \(2, 5, 1, 2\), not \(N, D\)"),
        (torch.ones(2, 5, 1), ("output",), r"its output is \(2, 5, 1\), not \(N, D\)"),
        (torch.ones(2), ("output",), r"its output is \(2,\), not \(N, D\)"),
        (torch.ones(2, 5), ("conv",), r"its feature map is \(2, 5\), not \(N, C, H, W\)"),
        ((torch.ones(2, 5), None), ("output", "conv"), "its feature map is NoneType, not one tensor"),
    ],
)
def test_outputs_of_other_shapes_are_told(value: object, outputs: tuple[str, ...], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        forward(TorchNetwork(Gives(value), "net", outputs), example_batch(2, (4, 4)))


def test_the_nearest_of_several_is_taken_by_its_largest_difference() -> None:
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.mean((2, 3))
            for shift in (2.0, 0.25, 1.0):
                y = y + shift
            return y

    batch = example_batch(2, (4, 4))
    mean = batch.mean(axis=(2, 3))
    wanted = {"x": mean + 2.2, "y": mean + 1000}
    found, outputs = nearest_intermediates(TorchNetwork(Steps(), "net"), batch, wanted)
    np.testing.assert_allclose(found["x"], mean + 2.25, atol=1e-5)
    np.testing.assert_allclose(found["y"], mean + 3.25, atol=1e-5)
    np.testing.assert_allclose(outputs["output"], mean + 3.25, atol=1e-5)


def test_whole_numbers_are_no_feature_map() -> None:
    class Places(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + x.argmax(1).sum()  # the indices are (2, 4, 4)

    with pytest.raises(ExportError, match=r"no tensor of the shape \(2, 4, 2, 2\)"):
        nearest_intermediates(
            TorchNetwork(Places(), "net"), example_batch(2, (4, 4)), {"x": np.zeros((2, 4, 2, 2), np.float32)}
        )
