"""What a network in PyTorch is, ready for export."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from simmap.engine.types import Triple

Kind = Literal["torchvision", "timm", "module"]
Size = tuple[int, int]


@dataclass(frozen=True)
class TorchNetwork:
    """A network in PyTorch that is ready for export.

    Attributes:
        module: in eval mode, on the CPU, float32; takes (N, 3, H, W), already normalised, and gives
            ``outputs``, a tuple where there are two.
        name: for example ``timm/tf_efficientnet_lite0``.
        outputs: names of what ``module`` gives: ``output`` (N, D), and the feature map ``conv`` (N, C, H, W)
            where it was named; ``conv`` alone where a pooling is put on it whatever follows.
        embedding: what the embedding is unless the recipe says otherwise; see ``surgery.analysis``.
        is_classifier: of a library: class scores may follow its pooled feature, and its tokens lie on
            ``grid``, or in an unknown order.
        grid: height and width of the places of tokens (N, L, C); None where unknown.
        takes_one_size: position embeddings fix the number of its patches.
        mean, std, size, crop_fraction, kernel: the preprocessing that the architecture was trained with
            (``kernel`` as its library calls it: ``bilinear``, ``bicubic``); None where unknown.
        notes: what a user should know of how the network came about, a sentence each.
    """

    module: nn.Module
    name: str
    outputs: tuple[str, ...] = ("output",)
    embedding: Literal["output", "pooled"] = "output"
    is_classifier: bool = False
    grid: Size | None = None
    takes_one_size: bool = False
    mean: Triple | None = None
    std: Triple | None = None
    size: Size | None = None
    crop_fraction: float | None = None
    kernel: str | None = None
    notes: tuple[str, ...] = ()
