"""A network's own values in PyTorch, which the artifact is compared with."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from .messages import first_line
from .network import Size, TorchNetwork

_NDIM = {"output": 2, "conv": 4}


def forward(network: TorchNetwork, batch: Array) -> dict[str, Array]:
    """The outputs of the network in eval mode, by name.

    Args:
        batch: (N, 3, H, W) float32.

    Raises:
        ExportError: the network fails on this batch, or gives something else than (N, D) and (N, C, H, W).
    """
    try:
        with torch.no_grad():
            result = network.module(torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32)))
    except ExportError:
        raise
    except Exception as error:
        size = "x".join(map(str, batch.shape[2:]))
        raise ExportError(
            f"{network.name}: its forward pass fails at {size} ({first_line(error)})"
        ) from error
    tensors = result if len(network.outputs) > 1 else (result,)
    for name, tensor in zip(network.outputs, tensors, strict=True):
        label = "feature map" if name == "conv" else name
        if not isinstance(tensor, torch.Tensor):
            raise ExportError(f"{network.name}: its {label} is {type(tensor).__name__}, not one tensor")
        pointwise = name == "output" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
        if tensor.ndim != _NDIM[name] and not pointwise:
            wanted = "(N, C, H, W)" if name == "conv" else "(N, D)"
            raise ExportError(f"{network.name}: its {label} is {tuple(tensor.shape)}, not {wanted}")
    return {
        name: tensor.detach().flatten(1).numpy() if name == "output" else tensor.detach().numpy()
        for name, tensor in zip(network.outputs, tensors, strict=True)
    }


def nearest_intermediates(
    network: TorchNetwork, batch: Array, wanted: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The tensors that the network computes on its way whose values are nearest to those that are wanted.

    Every tensor that any operation gives is looked at, whether laid out as (N, C, H, W), (N, H, W, C),
    (N, C, L) or as tokens (N, L, C) with or without prefix tokens. Only the nearest is kept, as a copy:
    a later operation may change it in place (DenseNet's last ReLU does).

    Args:
        batch: (N, 3, H', W') float32.
        wanted: (N, C, H, W) or (N, C) by name, what the exported graph gave for ``batch``.

    Returns:
        The nearest by name, in the shapes wanted, not normalised or scaled in any way; and the network's
        outputs.

    Raises:
        ExportError: no tensor has a shape that is wanted, or the network fails.
    """
    recorder = _Recorder([torch.from_numpy(np.asarray(w, dtype=np.float32)) for w in wanted.values()])
    with recorder:
        outputs = forward(network, batch)
    nearest = {}
    for (name, value), tensor in zip(wanted.items(), recorder.nearest, strict=True):
        if tensor is None:
            raise ExportError(
                f"{network.name}: computes no tensor of the shape {tuple(value.shape)} in PyTorch"
            )
        nearest[name] = cast(Array, tensor.contiguous().numpy()).reshape(value.shape)
    return nearest, outputs


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps copies of the tensors nearest to those wanted, by the largest difference, of all that the
    operations under this mode give."""

    def __init__(self, wanted: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = [each if each.ndim == 4 else each[:, :, None, None] for each in wanted]
        self.nearest: list[torch.Tensor | None] = [None] * len(wanted)
        self.distances = [float("inf")] * len(wanted)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                for at, wanted in enumerate(self.wanted):
                    for view in _views(tensor, *wanted.shape):
                        distance = float((view - wanted).abs().max())
                        if distance < self.distances[at] or self.nearest[at] is None:
                            self.nearest[at], self.distances[at] = view.clone(), distance
        return result


def _views(x: torch.Tensor, n: int, c: int, h: int, w: int) -> Iterator[torch.Tensor]:
    """``x`` as (n, c, h, w), in each layout that its shape allows."""
    if x.ndim == 0 or x.shape[0] != n:
        return
    if x.shape == (n, c, h, w):
        yield x
    if x.shape == (n, h, w, c):
        yield x.permute(0, 3, 1, 2)
    if x.ndim == 3 and x.shape[1:] == (c, h * w):
        yield x.reshape(n, c, h, w)
    if x.ndim == 3 and x.shape[2] == c and x.shape[1] >= h * w > 1:
        yield x[:, x.shape[1] - h * w :].transpose(1, 2).reshape(n, c, h, w)
    if x.shape == (n, c) and h * w == 1:
        yield x[:, :, None, None]


def example_batch(batch: int, size: Size) -> Array:
    """A reproducible batch (batch, 3, *size) of unit variance, as normalised images have."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((batch, 3, *size), dtype=np.float32)
