"""Build networks of torchvision, of timm and of a user's own factory."""

import contextlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import timm
import torch
import torchvision
from torch import nn

from simmap.engine.contract import Pooling
from simmap.engine.errors import ExportError

from .checkpoints import check_finite, load_checkpoint
from .finder import find_pooled_layer
from .layers import FirstToken, Layout, Pool, Pooled, Tap, TimmFeatures, TimmToken, find_layer
from .messages import first_line, quiet, suggest
from .network import Kind, Size, TorchSource
from .running import Nearest, example_batch

# Of ImageNet's lists of classes that networks of timm are fine-tuned on.
_IMAGENET_CLASSES = (1000, 11821, 21841, 21843)
_MAP_POOLINGS = ("avg", "max", "gem", "avgmax", "catavgmax")


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


def _build_torchvision(
    name: str, weights: Path | None, conv_layer: str | None, pool: str | None, size: Size | None
) -> TorchSource:
    known = torchvision.models.list_models(module=torchvision.models)  # classifiers only
    if name.lower() not in known:
        raise ExportError(f"torchvision has no classifier {name!r}{suggest(name, known)}")
    title = f"torchvision/{name}"
    defaults = _torchvision_defaults(name)
    options: dict[str, Any] = {}
    if name.lower() in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # a slow initialisation that nothing needs
    if name.lower().startswith("maxvit"):
        options["input_size"] = size or defaults["size"]
    with quiet():
        network = torchvision.models.get_model(name, weights=None, **options).eval()
    example = _example(size or defaults["size"] or (224, 224))
    models = torchvision.models
    if isinstance(network, models.VisionTransformer) and conv_layer is None and pool is None:
        token = FirstToken(Tap(network, "encoder"))
        told = load_checkpoint(network, weights, title, token, example)
        return TorchSource(
            token.eval().requires_grad_(False), title, "output", notes=told, takes_one_size=True, **defaults
        )
    if conv_layer is not None:
        layer, kind = conv_layer, "avg"
    elif isinstance(network, models.VGG | models.AlexNet | models.SqueezeNet):
        # Dense layers sit on the map, or the pooling comes after the classifier: the embedding that is
        # wanted is the pooled output of the last block (section 4 of the paper, for VGG).
        layer, kind = "features", "avg"
    else:
        layer, kind = find_pooled_layer(network, example, title)
    pooled = Pooled(Tap(network, layer), Pool(pool or kind), Layout(title))
    notes = (
        *load_checkpoint(network, weights, title, pooled, example),
        f"feature map: the output of {layer!r}",
    )
    return _pooled_source(pooled, title, notes, defaults)


def _build_timm(
    name: str, weights: Path | None, conv_layer: str | None, pool: str | None, size: Size | None
) -> TorchSource:
    if not timm.is_model(name.split(".")[0]):  # refuses hub names as well: nothing is downloaded
        raise ExportError(f"timm has no model {name!r}{suggest(name, timm.list_models())}")
    title = f"timm/{name}"
    try:
        with quiet():
            network: Any = timm.create_model(name, pretrained=False, exportable=True).eval()
    except Exception as error:
        raise ExportError(f"{title}: cannot be built ({first_line(error)})") from error
    config = network.pretrained_cfg
    native = cast(Size, tuple(int(n) for n in config["input_size"][1:]))
    example = _example(native)
    kind = pool or _timm_pooling(network, title)
    if kind == "token" and conv_layer is not None:
        raise ExportError(
            f"{title}: its embedding is a class token, not a pooling of {conv_layer!r}; add --pool avg to "
            "pool this layer, or leave --conv-layer out"
        )
    if kind == "token":
        return _timm_token(network, name, weights, size, title)
    layout = _timm_layout(network, title)
    if conv_layer is not None:
        find_layer(network, conv_layer)
    features = TimmFeatures(network) if conv_layer is None else Tap(network, conv_layer)
    pooled = Pooled(features, Pool(kind), layout)
    notes = load_checkpoint(network, weights, title, pooled, example)
    if size is not None and size != native and hasattr(network, "set_input_size"):
        _resize_timm(network, size, title)
        example = _example(size)
        layout.grid = _timm_layout(network, title).grid
    # timm's VGG has convolutions as large as the map between it and the pooling: cut before these.
    if pool is None and conv_layer is None and type(network).__name__ != "VGG":
        _check_pooled(network, pooled, example, title)
    return _pooled_source(pooled, title, notes, _timm_defaults(config))


def _timm_token(network: Any, name: str, weights: Path | None, size: Size | None, title: str) -> TorchSource:
    """The source of a network with a class token: without its classifier, with CLIP's projection."""
    defaults = _timm_defaults(network.pretrained_cfg)
    is_projection = "clip" in name and network.num_classes not in _IMAGENET_CLASSES
    token = network if is_projection else TimmToken(network)
    notes = load_checkpoint(network, weights, title, token, _example(defaults["size"]))
    if size is not None and size != defaults["size"]:
        _resize_timm(network, size, title)
    head = (
        f"the projection to {network.num_classes} features is kept"
        if is_projection
        else "the embedding is what num_classes=0 gives"
    )
    return TorchSource(
        token.eval().requires_grad_(False),
        title,
        "output",
        notes=(*notes, head),
        takes_one_size=True,
        **defaults,
    )


def _timm_defaults(config: Any) -> dict[str, Any]:
    """Preprocessing that a timm network was trained with."""
    interpolation = config.get("interpolation")
    return {
        "mean": tuple(float(v) for v in config["mean"]),
        "std": tuple(float(v) for v in config["std"]),
        "size": tuple(int(n) for n in config["input_size"][1:]),
        "crop_fraction": float(config["crop_pct"]) if config.get("crop_pct") else None,
        "kernel": str(interpolation) if interpolation else None,
    }


def _resize_timm(network: Any, size: Size, title: str) -> None:
    """Let a network take another size; after loading, since it resamples what it was trained with."""
    if not hasattr(network, "set_input_size"):
        raise ExportError(f"{title}: takes its own size only; leave size out")
    try:
        with quiet():
            network.set_input_size(img_size=size)
    except Exception as error:
        raise ExportError(f"{title}: cannot take {size[0]}x{size[1]} ({first_line(error)})") from error
    network.eval()


def _example(size: Size) -> torch.Tensor:
    return torch.from_numpy(example_batch(1, size))


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
                f"module {module_name!r} cannot be imported ({type(error).__name__}: {first_line(error)})"
            ) from error
        for part in factory_name.split("."):
            if not hasattr(target, part):
                raise ExportError(
                    f"module {module_name!r} has no {factory_name!r}{suggest(part, dir(target))}"
                )
            target = getattr(target, part)
        if not callable(target):
            raise ExportError(f"{name} is {type(target).__name__}, not a function that builds a network")
        try:
            network = target()
        except Exception as error:
            raise ExportError(f"{name} failed ({type(error).__name__}: {first_line(error)})") from error
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
    if not isinstance(network, nn.Module):
        raise ExportError(f"{name} gave {type(network).__name__}, not a torch.nn.Module")
    network = network.cpu().float().eval()
    notes = load_checkpoint(network, weights, name) if weights is not None else ()
    check_finite(network.state_dict(), name)
    if conv_layer is not None:
        network = Tap(network, conv_layer).eval()
    network.requires_grad_(False)
    return TorchSource(
        network,
        f"module/{name}",
        "output",
        conv_output="conv" if conv_layer is not None else None,
        notes=notes,
    )


def _pooled_source(
    pooled: Pooled, title: str, notes: Sequence[str], defaults: Mapping[str, Any]
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
        return "token"
    raise ExportError(
        f"{title}: its pooling ({kind or 'none'}) is no sum over places; name another one with --pool"
    )


def _timm_layout(network: nn.Module, title: str) -> Layout:
    """Layout of what ``forward_features`` gives."""
    grid = None
    for attribute in ("patch_embed", "stem"):
        grid = grid or getattr(getattr(network, attribute, None), "grid_size", None)
    return Layout(
        title,
        last=getattr(network, "output_fmt", "NCHW") == "NHWC",
        prefix=int(getattr(network, "num_prefix_tokens", 0)),
        grid=(int(grid[0]), int(grid[1])) if grid else None,
    )


def _check_pooled(network: nn.Module, pooled: Pooled, example: torch.Tensor, title: str) -> None:
    """Raise ExportError unless the network itself computes the pooled feature that ``pooled`` gives."""
    try:
        with torch.no_grad():
            feature = pooled(example)[0]
            recorder = Nearest(feature[:, :, None, None])
            with recorder:
                network(example)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{title}: its forward pass fails ({first_line(error)})") from error
    if not recorder.distance <= 1e-4 * float(feature.abs().max()) + 1e-30:
        raise ExportError(
            f"{title}: does not pool the output of its forward_features by {pooled.pool.kind!r} to its "
            f"feature; --pool {pooled.pool.kind} pools it all the same, --conv-layer names another layer"
        )
