"""Networks in PyTorch as the source of an artifact: build, load a checkpoint, export to plain ONNX.

Three kinds of network become a ``TorchSource``: a torchvision classifier, a timm model, and what a
user's own ``package.module:factory`` returns. The first two are cut at their global pooling: the last
feature map, ``conv`` (N, C, H, W), and the pooled feature are the outputs, the classifier is gone. A
factory's network stays as it is, since only its author knows what its output is.

``to_onnx`` gives the plain graph on which ``export.onnx_source`` works; ``run`` and
``nearest_intermediate`` give the values in PyTorch that the artifact is compared with.
"""

import contextlib
import difflib
import importlib
import io
import logging
import pickle
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import onnxsim
import timm
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from simmap.engine.contract import Pooling
from simmap.engine.errors import ExportError
from simmap.engine.types import Triple

Kind = Literal["torchvision", "timm", "module"]
Size = tuple[int, int]
Array = npt.NDArray[np.float32]

EXPORTER_KEY = "simmap.exporter"
"""Key in the metadata of a graph from ``to_onnx``: ``dynamo`` or ``torchscript``."""

_GEM_P, _GEM_EPS = 3.0, 1e-6  # the values of the paper that introduced it (Radenovic et al., 2018)
_MAP_POOLINGS = ("avg", "max", "gem", "avgmax", "catavgmax")
_OPSET = 18  # the lowest that the dynamo exporter writes without converting versions
# Where training checkpoints keep the state dict, in the order of preference.
_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "backbone", "encoder"),
    *("weights", "params", "module", "student", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
)


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
    mean: Triple | None = None
    std: Triple | None = None
    size: Size | None = None
    crop_fraction: float | None = None
    kernel: str | None = None
    notes: tuple[str, ...] = ()


def build(
    kind: Kind,
    name: str,
    *,
    weights: Path | None,
    conv_layer: str | None = None,
    pool: str | None = None,
    size: Size | None = None,
) -> TorchSource:
    """Build the network ``name`` and load ``weights`` into it.

    Args:
        kind: ``torchvision``, ``timm``, or ``module`` for a name ``package.module:factory``.
        weights: a checkpoint; without one torchvision and timm networks keep random weights.
        conv_layer: the module whose output (N, C, H, W) is the feature map, instead of the one found.
            An operation that changes this output in place is part of it.
        pool: pools the feature map of a torchvision or timm network instead of its own pooling. It
            does not touch a factory's network, whose pooling is found in the exported graph.
        size: (height, width) of the input, for networks whose weights depend on it.

    Raises:
        ExportError: unknown name or layer, a network without a feature map whose pooling is the
            embedding, or a checkpoint that cannot be read or does not fit.
    """
    if pool is not None and pool not in _MAP_POOLINGS:
        raise ExportError(f"pool is {pool!r}, must be one of {', '.join(_MAP_POOLINGS)}")
    if kind == "torchvision":
        return _build_torchvision(name, weights, conv_layer, pool, size)
    if kind == "timm":
        return _build_timm(name, weights, conv_layer, pool, size)
    if kind == "module":
        return _build_module(name, weights, conv_layer)
    raise ExportError(f"source kind is {kind!r}, must be one of {', '.join(get_args(Kind))}")


def run(source: TorchSource, batch: Array) -> Array:
    """``output`` (N, D) of the network in eval mode for ``batch`` (N, 3, H, W) float32.

    Raises:
        ExportError: the network fails on this batch, or gives something else than (N, D).
    """
    return cast(Array, _forward(source, batch)[0].numpy())


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
    recorder = _Nearest(torch.from_numpy(np.ascontiguousarray(conv, dtype=np.float32)))
    with recorder:
        _forward(source, batch)
    if recorder.nearest is None:
        raise ExportError(f"{source.name}: computes no tensor of the shape {tuple(conv.shape)} in PyTorch")
    return cast(Array, recorder.nearest.contiguous().numpy())


def to_onnx(source: TorchSource, size: Size, *, dynamic: bool) -> onnx.ModelProto:
    """Export the network to ONNX with all weights inside.

    The graph takes ``input`` (N, 3, height, width) float32, already normalised, N free, and gives
    ``output`` and, where ``source.conv_output`` is set, the feature map under that name. It is compared
    with PyTorch at batch 1 and 3 before it is returned. The dynamo exporter goes first; where it fails
    or is wrong, the TorchScript exporter follows (``EXPORTER_KEY`` in the metadata says which). With
    ``dynamic`` it is the other way round, and a second size is compared too.

    Args:
        size: (height, width) of the input; with ``dynamic`` only that of the example.
        dynamic: height and width are free too.

    Raises:
        ExportError: neither exporter gives a correct graph.
    """
    batches = [_example(3, size)]
    if dynamic:  # a tracer can write the size of its example into the graph
        batches.append(_example(2, (size[0] + 32, size[1] + 64)))
    # Fails here, with its own message, when the network itself does not run at these sizes.
    cases = [(batch, [tensor.numpy() for tensor in _forward(source, batch)]) for batch in batches]
    names = ["output", *([source.conv_output] if source.conv_output else [])]
    failures = []
    # With free sizes dynamo reasons on symbols, for minutes where padding depends on the size (213 s
    # against 0.5 s for tf_efficientnet_lite0); the check at a second size makes the older one safe.
    for exporter in ("torchscript", "dynamo") if dynamic else ("dynamo", "torchscript"):
        try:
            model = _export(source.network, names, size, dynamic=dynamic, dynamo=exporter == "dynamo")
            _strip(model)
            _check(model, cases)
        except Exception as error:  # exporters raise anything
            failures.append(f"{exporter}: {_first_line(error)}")
            continue
        simplified = _simplify(model, cases)
        onnx.helper.set_model_props(simplified, {EXPORTER_KEY: exporter})
        return simplified
    free = " with other sizes free" if dynamic else ""
    raise ExportError(
        f"{source.name}: cannot be exported to ONNX at {size[0]}x{size[1]}{free} ({'; '.join(failures)})"
    )


# ---------------------------------------------------------------------------------------------------
# Networks


class _Pool(nn.Module):
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


class _Tap(nn.Module):
    """Runs a network and gives ``(output, conv)``, with ``conv`` the output of one of its layers."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer
        self._seen: list[Any] = []
        _layer(network, layer).register_forward_hook(lambda _module, _args, output: self._seen.append(output))

    def forward(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        self._seen.clear()
        output = self.network(x)
        if not self._seen:
            raise ExportError(f"layer {self.layer!r} does not run in a forward pass; name another one")
        conv = self._seen[-1]
        self._seen.clear()  # holds no tensor of an exporter's trace beyond this call
        return output, conv


class _Pooled(nn.Module):
    """Gives ``(output, conv)``: the map of ``features``, as (N, C, H, W), and its pooling."""

    def __init__(self, features: nn.Module, pool: _Pool, layout: "_Layout") -> None:
        super().__init__()
        self.features, self.pool, self.layout = features, pool, layout

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        conv = self.features(x)
        conv = self.layout.to_map(conv[1] if isinstance(self.features, _Tap) else conv)
        return self.pool(conv), conv


class _TimmFeatures(nn.Module):
    """``forward_features`` of a timm network, as a module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        return cast(Any, self.network).forward_features(x)


@dataclass
class _Layout:
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


def _build_torchvision(
    name: str, weights: Path | None, conv_layer: str | None, pool: str | None, size: Size | None
) -> TorchSource:
    known = torchvision.models.list_models(module=torchvision.models)  # classifiers only
    if name.lower() not in known:
        raise ExportError(f"torchvision has no classifier {name!r}{_suggest(name, known)}")
    title = f"torchvision/{name}"
    defaults = _torchvision_defaults(name)
    options: dict[str, Any] = {}
    if name.lower() in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # a slow initialisation that nothing needs
    if name.lower().startswith("maxvit"):
        options["input_size"] = size or defaults["size"]
    with _quiet():
        network = torchvision.models.get_model(name, weights=None, **options).eval()
    example = torch.from_numpy(_example(1, size or defaults["size"] or (224, 224)))
    models = torchvision.models
    if conv_layer is not None:
        layer, kind = conv_layer, "avg"
    elif isinstance(network, models.VGG | models.AlexNet | models.SqueezeNet):
        # Dense layers sit on the map, or the pooling comes after the classifier: the embedding that is
        # wanted is the pooled output of the last block (section 4 of the paper, for VGG).
        layer, kind = "features", "avg"
    else:
        layer, kind = _find_pooled_layer(network, example, title)
    pooled = _Pooled(_Tap(network, layer), _Pool(pool or kind), _Layout(title))
    notes = (*_load(network, weights, title, pooled, example), f"feature map: the output of {layer!r}")
    return _pooled_source(pooled, title, notes, defaults)


def _build_timm(
    name: str, weights: Path | None, conv_layer: str | None, pool: str | None, size: Size | None
) -> TorchSource:
    if not timm.is_model(name.split(".")[0]):  # refuses hub names as well: nothing is downloaded
        raise ExportError(f"timm has no model {name!r}{_suggest(name, timm.list_models())}")
    title = f"timm/{name}"
    try:
        with _quiet():
            network: Any = timm.create_model(name, pretrained=False, exportable=True).eval()
    except Exception as error:
        raise ExportError(f"{title}: cannot be built ({_first_line(error)})") from error
    config = network.pretrained_cfg
    native = tuple(int(n) for n in config["input_size"][1:])
    example = torch.from_numpy(_example(1, cast(Size, native)))
    kind = pool or _timm_pooling(network, title)
    layout = _timm_layout(network, title)
    if conv_layer is not None:
        _layer(network, conv_layer)
    features = _TimmFeatures(network) if conv_layer is None else _Tap(network, conv_layer)
    pooled = _Pooled(features, _Pool(kind), layout)
    notes = _load(network, weights, title, pooled, example)
    if size is not None and size != native and hasattr(network, "set_input_size"):
        # After loading: the network resamples the position embeddings that it was trained with.
        try:
            with _quiet():
                network.set_input_size(img_size=size)
        except Exception as error:
            raise ExportError(f"{title}: cannot take {size[0]}x{size[1]} ({_first_line(error)})") from error
        network.eval()
        example = torch.from_numpy(_example(1, size))
        layout.grid = _timm_layout(network, title).grid
    # timm's VGG has convolutions as large as the map between it and the pooling: cut before these.
    if pool is None and conv_layer is None and type(network).__name__ != "VGG":
        _check_pooled(network, pooled, example, title)
    interpolation = config.get("interpolation")
    defaults = {
        "mean": tuple(float(v) for v in config["mean"]),
        "std": tuple(float(v) for v in config["std"]),
        "size": native,
        "crop_fraction": float(config["crop_pct"]) if config.get("crop_pct") else None,
        "kernel": str(interpolation) if interpolation else None,
    }
    return _pooled_source(pooled, title, notes, defaults)


def _build_module(name: str, weights: Path | None, conv_layer: str | None) -> TorchSource:
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise ExportError(f"module is {name!r}, must be package.module:factory")
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        try:
            target: Any = importlib.import_module(module_name)
        except Exception as error:  # a module can raise anything when it is imported
            raise ExportError(
                f"module {module_name!r} cannot be imported ({type(error).__name__}: {_first_line(error)})"
            ) from error
        for part in factory_name.split("."):
            if not hasattr(target, part):
                raise ExportError(
                    f"module {module_name!r} has no {factory_name!r}{_suggest(part, dir(target))}"
                )
            target = getattr(target, part)
        if not callable(target):
            raise ExportError(f"{name} is {type(target).__name__}, not a function that builds a network")
        try:
            network = target()
        except Exception as error:
            raise ExportError(f"{name} failed ({type(error).__name__}: {_first_line(error)})") from error
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
    if not isinstance(network, nn.Module):
        raise ExportError(f"{name} gave {type(network).__name__}, not a torch.nn.Module")
    network = network.cpu().float().eval()
    notes = _load(network, weights, name) if weights is not None else ()
    _check_finite(network.state_dict(), name)
    if conv_layer is not None:
        network = _Tap(network, conv_layer).eval()
    network.requires_grad_(False)
    return TorchSource(
        network,
        f"module/{name}",
        "output",
        conv_output="conv" if conv_layer is not None else None,
        notes=notes,
    )


def _pooled_source(
    pooled: _Pooled, title: str, notes: Sequence[str], defaults: Mapping[str, Any]
) -> TorchSource:
    """The source of a classifier that is cut at its pooling."""
    kind = pooled.pool.kind
    gem = kind == "gem"
    return TorchSource(
        pooled.eval().requires_grad_(False),
        title,
        "pooled",
        conv_output="conv",
        pooling=cast(Pooling, kind),
        p=pooled.pool.p if gem else None,
        eps=pooled.pool.eps if gem else None,
        notes=tuple(notes),
        **defaults,
    )


def _torchvision_defaults(name: str) -> dict[str, Any]:
    """Preprocessing of the architecture's own weights; every value None where torchvision has none."""
    empty = dict.fromkeys(("mean", "std", "size", "crop_fraction", "kernel"))
    weights = list(torchvision.models.get_model_weights(name))
    if not weights:
        return empty
    default = getattr(torchvision.models.get_model_weights(name), "DEFAULT", weights[0])
    preset = default.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return {
        "mean": tuple(float(v) for v in preset.mean),
        "std": tuple(float(v) for v in preset.std),
        "size": (crop, crop),
        "crop_fraction": crop / resize,
        "kernel": preset.interpolation.value,
    }


class _PoolFinder(TorchFunctionMode):
    """Records every call that pools a map (N, C, H, W), with H W > 1, to one value a channel."""

    KINDS = {  # noqa: RUF012 - a constant
        "adaptive_avg_pool2d": "avg",
        "avg_pool2d": "avg",
        "mean": "avg",
        "adaptive_max_pool2d": "max",
        "max_pool2d": "max",
        "amax": "max",
    }

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.Tensor, Any, str]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = self.KINDS.get(getattr(func, "__name__", ""))
        if kind and args and isinstance(args[0], torch.Tensor) and isinstance(result, torch.Tensor):
            x = args[0]
            one = result.shape in (x.shape[:2], (*x.shape[:2], 1, 1))
            if x.ndim == 4 and x.shape[2] * x.shape[3] > 1 and one:
                # The node of the autograd graph now: an in-place operation would give the tensor another.
                self.found.append((x, result.grad_fn, kind))
        return result


def _find_pooled_layer(network: nn.Module, example: torch.Tensor, title: str) -> tuple[str, str]:
    """The layer whose output is pooled to the embedding, and the kind of that pooling.

    It is the last pooling without which no path leads from the input to the output. Squeeze-and-excite
    pools are not: a path goes around them.
    """
    outputs: list[tuple[str, Any]] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, output, path=path: outputs.append((path, output)))
        for path, module in network.named_modules()
        if path
    ]
    leaf = example.clone().requires_grad_()
    finder = _PoolFinder()
    try:
        with torch.enable_grad(), finder:
            logits = network(leaf * 1)
    finally:
        for handle in handles:
            handle.remove()
    for conv, node, kind in reversed(finder.found):
        if id(leaf) not in _leaves(logits, without=node):
            layers = [path for path, output in outputs if output is conv]
            if not layers:
                raise ExportError(f"{title}: no layer's output is what is pooled; name one with --conv-layer")
            return layers[-1], kind  # the outermost of those that end with the same tensor
    raise ExportError(
        f"{title}: has no feature map whose pooling is the embedding (a class token, or dense layers on "
        "the map); take a network that ends in a global pooling, or name a --conv-layer"
    )


def _leaves(output: torch.Tensor, without: Any = None) -> set[int]:
    """``id`` of every leaf tensor from which a path leads to ``output`` that avoids the node ``without``."""
    todo, seen, leaves = [output.grad_fn], set(), set()
    while todo:
        node = todo.pop()
        if node is None or node is without or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo.extend(child for child, _ in node.next_functions)
    return leaves


def _timm_pooling(network: nn.Module, title: str) -> str:
    """The network's own pooling, as this project names it."""
    head = getattr(network, "head", None)
    found: Any = None
    for owner in (network, head, getattr(network, "head_dist", None)):
        for attribute in ("global_pool", "pool_type"):
            if found is None:
                found = getattr(owner, attribute, None)
    kind = found if isinstance(found, str) else getattr(found, "pool_type", type(found).__name__)
    kind = kind.lower().removeprefix("fast") or ("avg" if kind else "")
    kinds = {type(part).__name__.lower() for part in (found, head)}
    if (
        any("attention" in name for name in kinds) or getattr(network, "attn_pool", None) is not None
    ):  # by the content of the image: its pool_type does not say so
        kind = "attention"
    if kind in ("avg", "max", "avgmax", "catavgmax"):
        return str(kind)
    if kind in ("token", "tok"):
        raise ExportError(
            f"{title}: its embedding is a class token, so it has no feature map whose pooling is the "
            "embedding; --pool avg takes the mean of the patch tokens instead"
        )
    raise ExportError(
        f"{title}: its pooling ({kind or 'none'}) is no sum over places; name another one with --pool"
    )


def _timm_layout(network: nn.Module, title: str) -> _Layout:
    """Layout of what ``forward_features`` gives."""
    grid = None
    for attribute in ("patch_embed", "stem"):
        grid = grid or getattr(getattr(network, attribute, None), "grid_size", None)
    return _Layout(
        title,
        last=getattr(network, "output_fmt", "NCHW") == "NHWC",
        prefix=int(getattr(network, "num_prefix_tokens", 0)),
        grid=(int(grid[0]), int(grid[1])) if grid else None,
    )


def _check_pooled(network: nn.Module, pooled: _Pooled, example: torch.Tensor, title: str) -> None:
    """Raise ExportError unless the network itself computes the pooled feature that ``pooled`` gives."""
    try:
        with torch.no_grad():
            feature = pooled(example)[0]
            recorder = _Nearest(feature[:, :, None, None])
            with recorder:
                network(example)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{title}: its forward pass fails ({_first_line(error)})") from error
    if not recorder.distance <= 1e-4 * float(feature.abs().max()) + 1e-30:
        raise ExportError(
            f"{title}: does not pool the output of its forward_features by {pooled.pool.kind!r} to its "
            f"feature; --pool {pooled.pool.kind} pools it all the same, --conv-layer names another layer"
        )


def _layer(network: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(network.named_modules())
    if not name or name not in layers:
        raise ExportError(f"conv_layer {name!r} is no layer of the network{_suggest(name, layers)}")
    return layers[name]


# ---------------------------------------------------------------------------------------------------
# Checkpoints


def _load(
    network: nn.Module,
    weights: Path | None,
    title: str,
    pooled: _Pooled | None = None,
    example: torch.Tensor | None = None,
) -> tuple[str, ...]:
    """Load the checkpoint ``weights`` into ``network`` and give the notes about it.

    With ``pooled``, keys of the modules that its output on ``example`` does not need (the classifier,
    auxiliary heads) may be missing, be unexpected or have other shapes.
    """
    if weights is None:
        return ("random weights: for tests only",)
    free = _unused(network, pooled, example, title) if pooled is not None and example is not None else ()
    state, notes = _read(weights)
    target = network.state_dict()
    state, stripped = _strip_prefix(state, target, weights, drop_others=pooled is not None)
    notes += stripped
    if not set(state) & set(target):
        ordered = _in_order(state, target)
        if ordered is not None:
            state = ordered
            notes.append(
                "loaded in order: no key of the checkpoint matched, and every tensor's shape and kind did"
            )

    def needed(key: str) -> bool:
        return not key.startswith(free) and not key.endswith("num_batches_tracked")

    missing = [key for key in target if key not in state and needed(key)]
    unexpected = [key for key in state if key not in target and needed(key)]
    shared = [key for key in target if key in state]
    unfit = [key for key in shared if state[key].shape != target[key].shape]
    wrong = [key for key in unfit if needed(key)]
    problems = []
    for label, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            problems.append(f"{len(keys)} {label} ({_few(keys)})")
    if wrong:
        shapes = [f"{k} {_shape(state[k])} for {_shape(target[k])}" for k in wrong]
        problems.append(f"{len(wrong)} of other shapes ({_few(shapes)})")
    if problems:
        raise ExportError(f"{weights}: does not fit {title}: {', '.join(problems)}")
    fitting = {key: state[key] for key in shared if key not in unfit}
    _check_finite(fitting, str(weights))
    ignored = len(unfit) + sum(key not in target for key in state)
    if ignored:
        notes.append(f"ignored {ignored} tensors of the checkpoint that only the classifier needs")
    network.load_state_dict(fitting, strict=False)
    return tuple(notes)


def _unused(network: nn.Module, pooled: _Pooled, example: torch.Tensor, title: str) -> tuple[str, ...]:
    """Prefixes (``fc.``) of the modules that have parameters, none of which reaches the pooled feature."""
    try:
        with torch.enable_grad():
            leaves = _leaves(pooled.eval()(example)[0])
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{title}: its forward pass fails ({_first_line(error)})") from error
    found = []
    for path, module in network.named_modules():
        parameters = list(module.parameters())
        if path and parameters and not any(id(parameter) in leaves for parameter in parameters):
            found.append(f"{path}.")
    return tuple(found)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state dict in the file ``path``; code in it never runs."""
    if not path.is_file():
        raise ExportError(
            f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}, not a checkpoint"
        )
    if path.stat().st_size == 0:
        raise ExportError(f"{path}: is empty, not a checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with _quiet():
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or _first_line(error)})") from error
    except Exception as error:  # each format has its own
        text = str(error)
        refused = isinstance(error, pickle.UnpicklingError)
        code = "global" in text.lower() or _is_plain_pickle(path)
        if (refused and code) or "TorchScript archive" in text:
            raise ExportError(f"{path}: holds pickled code and is not loaded; save a state_dict") from error
        # PyTorch's own words are advice to load without this protection.
        detail = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
        raise ExportError(f"{path}: is truncated or not a checkpoint{detail}") from error
    notes: list[str] = []
    while not _is_state(content):
        entries = [
            e for e in _ENTRIES if isinstance(content, Mapping) and isinstance(content.get(e), Mapping)
        ]
        if not entries:
            held = (
                _few([str(key) for key in content])
                if isinstance(content, Mapping)
                else type(content).__name__
            )
            raise ExportError(f"{path}: holds no state dict (found {held or 'nothing'})")
        others = f" (it has {', '.join(map(repr, entries[1:]))} too)" if entries[1:] else ""
        notes.append(f"took the entry {entries[0]!r} of the checkpoint{others}")
        content = content[entries[0]]
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}, notes


def _is_plain_pickle(path: Path) -> bool:
    """Whether Python's pickle wrote the file: its protocols are 3 and later, PyTorch's own is 2."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] in (b"\x03", b"\x04", b"\x05")


def _is_state(content: object) -> bool:
    """Whether ``content`` is a state dict: tensors by name, none of them deeper down.

    Entries of training checkpoints stand beside counters, rates and even single tensors: a mapping
    among the values tells these from the state dict itself.
    """
    return (
        isinstance(content, Mapping)
        and any(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
        and not any(key in _ENTRIES and isinstance(value, Mapping) for key, value in content.items())
    )


def _strip_prefix(
    state: dict[str, torch.Tensor], target: Mapping[str, object], path: Path, *, drop_others: bool
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Take off the prefix (``module.``, ``model.backbone.``) behind which most keys of ``target`` lie.

    With ``drop_others`` keys that lie elsewhere are dropped: beside the backbone of a classifier these
    are heads of the training. Without, they stay, and do not fit.
    """
    fits: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in target:
                fits[".".join(parts[:start]) + "." if start else ""] += 1
    if not fits:
        return state, []
    best = max(fits.values())
    prefixes = [prefix for prefix, count in fits.items() if count == best]
    prefix = min(prefixes, key=len)
    if len(prefixes) > 1 and prefix and best > len(target) // 2:
        raise ExportError(
            f"{path}: holds the network more than once, under {_few(prefixes)}; save one of them"
        )
    if not prefix:
        return state, []
    notes = [f"stripped the prefix {prefix!r} from the keys of the checkpoint"]
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = {key: value for key, value in state.items() if not key.startswith(prefix)}
    if not outside:
        return inside, notes
    if not drop_others:
        return {**inside, **outside}, notes
    return inside, [
        *notes,
        f"ignored {len(outside)} tensors of the checkpoint outside it ({_few(list(outside))})",
    ]


def _in_order(
    state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """``state`` under the keys of ``target``, in order; None unless every shape and kind is the same.

    Some checkpoints name the modules of the same architecture otherwise. The last part of a key
    (``weight``, ``running_var``) must agree as well, or two vectors of one layer could change places.
    Counters of batches are left out: not every file has them, and eval mode does not need them.
    """

    def entries(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        return [(k, v) for k, v in tensors.items() if not k.endswith("num_batches_tracked")]

    given, wanted = entries(state), entries(target)
    if len(given) != len(wanted):
        return None
    for (key, value), (name, tensor) in zip(given, wanted, strict=True):
        if value.shape != tensor.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            return None
    return {name: value for (name, _), (_, value) in zip(wanted, given, strict=True)}


def _check_finite(state: Mapping[str, torch.Tensor], title: str) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ExportError(f"{title}: the weights {key!r} hold NaN or infinity")


# ---------------------------------------------------------------------------------------------------
# Running and exporting


class _Nearest(TorchDispatchMode):  # type: ignore[no-untyped-call]
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


def _forward(source: TorchSource, batch: Array) -> tuple[torch.Tensor, ...]:
    """``output`` and, where it is exposed, ``conv``."""
    try:
        with torch.no_grad():
            result = source.network(torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32)))
    except ExportError:
        raise
    except Exception as error:
        size = "x".join(map(str, batch.shape[2:]))
        raise ExportError(
            f"{source.name}: its forward pass fails at {size} ({_first_line(error)})"
        ) from error
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


def _example(batch: int, size: Size) -> Array:
    """A reproducible batch (batch, 3, *size) of unit variance, as normalised images have."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((batch, 3, *size), dtype=np.float32)


def _export(
    network: nn.Module, names: Sequence[str], size: Size, *, dynamic: bool, dynamo: bool
) -> onnx.ModelProto:
    # Two images: a batch of one would be specialised, and the graph would take only one.
    example = (torch.from_numpy(_example(2, size)),)
    shapes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic:
        shapes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with _quiet(), torch.no_grad():
        if dynamo:
            program = torch.onnx.export(
                network,
                example,
                input_names=["input"],
                output_names=list(names),
                dynamic_shapes=(shapes,),
                opset_version=_OPSET,
                dynamo=True,
                optimize=True,  # folds BatchNorm: no simplifier does it later
                verbose=False,
            )
            assert program is not None
            return program.model_proto
        axes = {0: "batch", **({2: "height", 3: "width"} if dynamic else {})}
        buffer = io.BytesIO()
        torch.onnx.export(
            network,
            example,
            cast(Any, buffer),
            input_names=["input"],
            output_names=list(names),
            dynamic_axes={"input": axes, **{name: {0: "batch"} for name in names}},
            opset_version=_OPSET,
            dynamo=False,
        )
        return onnx.load_from_string(buffer.getvalue())


Cases = Sequence[tuple[Array, Sequence[Array]]]
"""Batches, each with the outputs that PyTorch gives for it."""


def _check(model: onnx.ModelProto, cases: Cases) -> None:
    """Raise ValueError unless the graph gives what PyTorch gives, for whole batches and their first image."""
    session = _session(model)
    for batch, expected in cases:
        for count in (len(batch), 1):
            for got, want in zip(session.run(None, {"input": batch[:count]}), expected, strict=True):
                want = want[:count]
                got = got.reshape(want.shape) if got.size == want.size else got
                if got.shape != want.shape:
                    raise ValueError(f"gives {got.shape} for {want.shape} at batch {count}")
                worst = float(np.abs(got - want).max())
                # Random weights can give maps of 1e-13: only a relative bound says anything.
                if not worst <= 1e-3 * float(np.abs(want).max()) + 1e-30:
                    raise ValueError(f"differs from PyTorch by {worst:.2g} at batch {count}")


def _simplify(model: onnx.ModelProto, cases: Cases) -> onnx.ModelProto:
    """The graph with fewer nodes where onnxsim finds one that gives the same, else ``model``."""
    try:
        with _quiet():
            simplified, _ = onnxsim.simplify(model)
        if len(simplified.graph.node) >= len(model.graph.node):
            return model
        _check(simplified, cases)
    except Exception:  # an optional step: the graph is right without it
        return model
    return cast(onnx.ModelProto, simplified)


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _strip(model: onnx.ModelProto) -> None:
    """Take out what exporters write about the source code, file paths among it."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    items: Iterable[Any] = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in items:
        del item.metadata_props[:]
        item.doc_string = ""
    model.doc_string = graph.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, prints or log lines: libraries report on themselves, and errors are raised anyway."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(level)


# ---------------------------------------------------------------------------------------------------
# Messages


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], n=3, cutoff=0.5)
    return f"; close to it: {', '.join(close)}" if close else ""


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
