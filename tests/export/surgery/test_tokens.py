"""Class tokens in a graph: what is refused, and by which node's name."""

import io

import onnx
import pytest
import torch
from tiny_transformers import REFUSED, randomised, vit
from torch import nn

from simmap.engine.errors import ExportError
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.graph import Graph


def graph_of(network: nn.Module, size: tuple[int, int] = (64, 64)) -> Graph:
    """A network as a plain graph."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    buffer = io.BytesIO()
    torch.onnx.export(network, (torch.zeros(1, 3, *size),), buffer, opset_version=17, dynamo=False)
    return Graph(onnx.load_from_string(buffer.getvalue()), name="net", size=size)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decomposed_is_refused_by_its_node(kind: str) -> None:
    network, told = REFUSED[kind]
    with pytest.raises(ExportError, match=told):
        analyse(graph_of(randomised(network())))


@pytest.mark.parametrize(
    ("cells", "told"),
    [((2, 3), r"grid is 2x3; net has 3 x 4 patches"), ((6, 4), "columns that divide 4")],
)
def test_a_grid_must_divide_the_patches(cells: tuple[int, int], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        analyse(graph_of(vit(), (48, 64)), cells=cells)
