"""Modules put around a network to give its feature map by the name of a layer."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from simmap.engine.errors import ExportError

from .messages import suggest
from .network import Size


class Tap(nn.Module):
    """Runs a network and gives ``(output, conv)``, with ``conv`` the output of one of its layers."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        """Hook ``layer``; an operation that changes its output in place is part of it.

        Raises:
            ExportError: there is no such layer.
        """
        super().__init__()
        layers: dict[str, nn.Module] = dict(network.named_modules())
        if not layer or layer not in layers:
            raise ExportError(f"conv_layer {layer!r} is no layer of the network{suggest(layer, layers)}")
        self.network, self.layer = network, layer
        self._outputs: list[Any] = []
        layers[layer].register_forward_hook(lambda _module, _args, output: self._outputs.append(output))

    def forward(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        self._outputs.clear()
        output = self.network(x)
        if not self._outputs:
            raise ExportError(f"layer {self.layer!r} does not run in a forward pass; name another one")
        conv = self._outputs[-1]
        self._outputs.clear()  # holds no tensor of an exporter's trace beyond this call
        return output, conv


@dataclass(frozen=True)
class Layout:
    """How a network lays out its feature map.

    Attributes:
        name: of the network, for errors.
        last: channels are the last axis of four.
        prefix: number of tokens before those of the places.
        grid: height and width of the places of tokens (N, L, C); None where unknown.
    """

    name: str
    last: bool = False
    prefix: int = 0
    grid: Size | None = None

    def to_map(self, x: Any) -> torch.Tensor:
        """``x`` as (N, C, H, W).

        Raises:
            ExportError: it is no map, or its tokens lie on no known grid.
        """
        if not isinstance(x, torch.Tensor) or x.ndim not in (3, 4):
            shape = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise ExportError(
                f"{self.name}: its feature map is {shape}, not (N, C, H, W); name a --conv-layer"
            )
        if x.ndim == 4:
            return x.permute(0, 3, 1, 2) if self.last else x
        # A square grid is never guessed: some networks (Hiera) keep their tokens in another order.
        if self.grid is None or x.shape[1] - self.prefix != self.grid[0] * self.grid[1]:
            raise ExportError(
                f"{self.name}: its {x.shape[1]} tokens lie on no known grid of places; name a --conv-layer"
            )
        return x[:, self.prefix :].transpose(1, 2).reshape(x.shape[0], x.shape[2], *self.grid)


class FeatureMap(nn.Module):
    """Gives the feature map of a network alone, as (N, C, H, W)."""

    def __init__(self, network: nn.Module, layer: str | None, layout: Layout) -> None:
        """Of ``layer``, or without one of timm's ``forward_features``."""
        super().__init__()
        self.network = network if layer is None else Tap(network, layer)
        self.layout = layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.network, Tap):
            return self.layout.to_map(self.network(x)[1])
        return self.layout.to_map(cast(Any, self.network).forward_features(x))
