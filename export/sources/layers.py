"""Modules put around a network: its pooling, and the taps that give its feature map."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from simmap.engine.errors import ExportError

from .messages import suggest
from .network import Size

_GEM_P, _GEM_EPS = 3.0, 1e-6  # the values of the paper that introduced it (Radenovic et al., 2018)


class Pool(nn.Module):
    """Pools a map (N, C, H, W) to (N, C), or (N, 2 C) for ``catavgmax``."""

    def __init__(self, kind: str, p: float = _GEM_P, eps: float = _GEM_EPS) -> None:
        super().__init__()
        self.kind, self.p, self.eps = kind, p, eps

    def forward(self, conv: torch.Tensor) -> torch.Tensor:
        if self.kind == "gem":
            return conv.clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)
        if self.kind == "avg":
            return conv.mean((2, 3))
        if self.kind == "max":
            return conv.amax((2, 3))
        average, maximum = conv.mean((2, 3)), conv.amax((2, 3))
        return 0.5 * (average + maximum) if self.kind == "avgmax" else torch.cat((average, maximum), 1)


class Tap(nn.Module):
    """Runs a network and gives ``(output, conv)``, with ``conv`` the output of one of its layers."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer
        self._seen: list[Any] = []
        find_layer(network, layer).register_forward_hook(
            lambda _module, _args, output: self._seen.append(output)
        )

    def forward(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        self._seen.clear()
        output = self.network(x)
        if not self._seen:
            raise ExportError(f"layer {self.layer!r} does not run in a forward pass; name another one")
        conv = self._seen[-1]
        self._seen.clear()  # holds no tensor of an exporter's trace beyond this call
        return output, conv


class Pooled(nn.Module):
    """Gives ``(output, conv)``: the map of ``features``, as (N, C, H, W), and its pooling."""

    def __init__(self, features: nn.Module, pool: Pool, layout: "Layout") -> None:
        super().__init__()
        self.features, self.pool, self.layout = features, pool, layout

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        conv = self.features(x)
        conv = self.layout.to_map(conv[1] if isinstance(self.features, Tap) else conv)
        return self.pool(conv), conv


class TimmFeatures(nn.Module):
    """``forward_features`` of a timm network, as a module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        return cast(Any, self.network).forward_features(x)


class TimmToken(nn.Module):
    """The embedding of a timm network with a class token: what it gives with ``num_classes=0``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        network = cast(Any, self.network)
        return cast(torch.Tensor, network.forward_head(network.forward_features(x), pre_logits=True))


class FirstToken(nn.Module):
    """The first of the tokens (N, T, C) that a layer gives."""

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self.tap = tap

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.tap(x)[1][:, 0])


@dataclass
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
        """``x`` as (N, C, H, W)."""
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


def find_layer(network: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(network.named_modules())
    if not name or name not in layers:
        raise ExportError(f"conv_layer {name!r} is no layer of the network{suggest(name, layers)}")
    return layers[name]
