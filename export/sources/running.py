"""A network's own values in PyTorch, which the artifact is compared with."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from .messages import first_line
from .network import Size, TorchSource


def run(source: TorchSource, batch: Array) -> Array:
    """``output`` (N, D) of the network in eval mode for ``batch`` (N, 3, H, W) float32.

    Raises:
        ExportError: the network fails on this batch, or gives something else than (N, D).
    """
    return cast(Array, forward(source, batch)[0].numpy())


def nearest_intermediate(source: TorchSource, batch: Array, conv: Array) -> Array:
    """The tensor that the network computes on its way whose values are nearest to ``conv``.

    Every tensor that any operation gives is looked at, whether laid out as (N, C, H, W), (N, H, W, C),
    (N, C, L) or as tokens (N, L, C) with or without prefix tokens. Only the nearest is kept, as a copy:
    a later operation may change it in place (DenseNet's last ReLU does).

    Args:
        batch: (N, 3, H', W') float32.
        conv: (N, C, H, W), what the exported graph gave for ``batch``.

    Returns:
        (N, C, H, W) float32, not normalised or scaled in any way.

    Raises:
        ExportError: no tensor has that shape, or the network fails.
    """
    recorder = Nearest(torch.from_numpy(np.ascontiguousarray(conv, dtype=np.float32)))
    with recorder:
        forward(source, batch)
    if recorder.nearest is None:
        raise ExportError(f"{source.name}: computes no tensor of the shape {tuple(conv.shape)} in PyTorch")
    return cast(Array, recorder.nearest.contiguous().numpy())


class Nearest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a copy of the tensor nearest to ``conv`` (N, C, H, W), by the largest difference, of all
    that the operations under this mode give."""

    def __init__(self, conv: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conv = conv
        self.nearest: torch.Tensor | None = None
        self.distance = float("inf")

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                for view in self._views(tensor):
                    distance = float((view - self.conv).abs().max())
                    if distance < self.distance or self.nearest is None:
                        self.nearest, self.distance = view.clone(), distance
        return result

    def _views(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """``x`` as (N, C, H, W), in each layout that its shape allows."""
        n, c, h, w = self.conv.shape
        if x.ndim == 0 or x.shape[0] != n:
            return
        if x.shape == (n, c, h, w):
            yield x
        if x.shape == (n, h, w, c):
            yield x.permute(0, 3, 1, 2)
        if x.ndim == 3 and x.shape[1:] == (c, h * w):
            yield x.reshape(n, c, h, w)
        if x.ndim == 3 and x.shape[2] == c and x.shape[1] >= h * w:
            yield x[:, x.shape[1] - h * w :].transpose(1, 2).reshape(n, c, h, w)
        if x.shape == (n, c) and h * w == 1:
            yield x[:, :, None, None]


def forward(source: TorchSource, batch: Array) -> tuple[torch.Tensor, ...]:
    """``output`` and, where it is exposed, ``conv``."""
    try:
        with torch.no_grad():
            result = source.network(torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32)))
    except ExportError:
        raise
    except Exception as error:
        size = "x".join(map(str, batch.shape[2:]))
        raise ExportError(f"{source.name}: its forward pass fails at {size} ({first_line(error)})") from error
    tensors = cast(tuple[Any, ...], result if source.conv_output else (result,))
    for label, tensor, dimensions in zip(("output", "feature map"), tensors, (2, 4), strict=False):
        if not isinstance(tensor, torch.Tensor):
            raise ExportError(f"{source.name}: its {label} is {type(tensor).__name__}, not one tensor")
        pointwise = label == "output" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
        if tensor.ndim != dimensions and not pointwise:
            wanted = "(N, D)" if dimensions == 2 else "(N, C, H, W)"
            raise ExportError(f"{source.name}: its {label} is {tuple(tensor.shape)}, not {wanted}")
    output = tensors[0]
    return (output.flatten(1).detach(), *(tensor.detach() for tensor in tensors[1:]))


def example_batch(batch: int, size: Size) -> Array:
    """A reproducible batch (batch, 3, *size) of unit variance, as normalised images have."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((batch, 3, *size), dtype=np.float32)
