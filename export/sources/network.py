"""What a network in PyTorch is, ready for export."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from simmap.engine.contract import Pooling
from simmap.engine.types import Triple

Kind = Literal["torchvision", "timm", "module"]
Size = tuple[int, int]


@dataclass(frozen=True)
class TorchSource:
    """A network in PyTorch that is ready for export.

    Attributes:
        network: in eval mode, on the CPU, float32; takes (N, 3, H, W), already normalised. Gives
            ``output``, or the pair ``(output, conv)`` where ``conv_output`` is set.
        name: for example ``timm/tf_efficientnet_lite0``.
        embedding: ``pooled``: a classifier, cut behind its pooling, so ``output`` is the pooled feature;
            ``output``: the network's own output is the embedding.
        conv_output: name of the ONNX output that carries the feature map, None where it must be found.
        pooling: how ``output`` came from ``conv``; None for a factory's network.
        p, eps: of pooling ``gem``.
        takes_one_size: position embeddings fix the number of its patches.
        mean, std, size, crop_fraction, kernel: the preprocessing that the architecture was trained with
            (``kernel`` as its library calls it: ``bilinear``, ``bicubic``); None where unknown.
        notes: what a user should know of how the network came about, a sentence each.
    """

    network: nn.Module
    name: str
    embedding: Literal["pooled", "output"]
    conv_output: str | None = None
    pooling: Pooling | None = None
    p: float | None = None
    eps: float | None = None
    takes_one_size: bool = False
    mean: Triple | None = None
    std: Triple | None = None
    size: Size | None = None
    crop_fraction: float | None = None
    kernel: str | None = None
    notes: tuple[str, ...] = ()
