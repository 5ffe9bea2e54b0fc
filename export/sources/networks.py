"""Build networks of torchvision, of timm and of a user's own factory.

The feature map and its pooling are found in the exported graph. A feature map that is named, or that gets
another pooling than its network's, comes out beside the network's output or in its place. What the embedding
is follows the library: for timm what ``num_classes=0`` gives, for torchvision, whose classifiers have no such
option, the pooled feature.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torchvision
from torch import nn

from simmap.engine.decompose import POOLINGS
from simmap.engine.errors import ExportError

from .checkpoints import load_checkpoint
from .factory import call_factory
from .layers import FeatureMap, Layout, Tap
from .messages import first_line, quiet, suggest
from .network import Kind, Size, TorchNetwork

# Modules of torchvision's classifiers that only class scores need.
_TORCHVISION_HEADS = ("fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits")


def build(
    kind: Kind,
    name: str,
    *,
    weights: Path | None,
    conv_layer: str | None = None,
    pool: str | None = None,
    size: Size | None = None,
    embedding: str | None = None,
) -> TorchNetwork:
    """Build the network ``name`` and load ``weights`` into it.

    Args:
        kind: ``torchvision``, ``timm``, or ``module`` for a name ``package.module:factory``, whose code runs.
        weights: a checkpoint; without one torchvision and timm networks keep random weights.
        conv_layer: the module whose output (N, C, H, W) is the feature map, instead of the one found.
            An operation that changes this output in place is part of it.
        pool: will be put on the feature map instead of what follows it.
        size: (height, width) of the input, for networks whose weights depend on it.
        embedding: what the recipe names; None takes off the last layer of a timm network (``num_classes=0``).

    Raises:
        ExportError: unknown name, layer or pooling, or a checkpoint that cannot be read or does not fit.
    """
    if pool is not None and pool not in POOLINGS:
        raise ExportError(f"pool is {pool!r}, must be one of {', '.join(POOLINGS)}")
    if kind == "torchvision":
        return _build_torchvision(name, weights, conv_layer, size)
    if kind == "timm":
        return _build_timm(name, weights, conv_layer, pool is not None, size, embedding)
    if kind == "module":
        return _build_module(name, weights, conv_layer, pool is not None)
    raise ExportError(f"source kind is {kind!r}, must be one of {', '.join(get_args(Kind))}")


def _build_torchvision(
    name: str, weights: Path | None, conv_layer: str | None, size: Size | None
) -> TorchNetwork:
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
    models = torchvision.models
    if conv_layer is None and isinstance(network, models.VGG | models.AlexNet | models.SqueezeNet):
        # Dense layers sit on the map, or the pooling comes after the classifier: the embedding that is
        # wanted is the pooled output of the last block (section 4 of the paper, for VGG).
        conv_layer = "features"
    module = network if conv_layer is None else FeatureMap(network, conv_layer, Layout(title))
    notes = load_checkpoint(network, weights, title, _TORCHVISION_HEADS)
    takes_one_size = isinstance(network, models.VisionTransformer)
    return _classifier(module, title, "pooled", None, notes, takes_one_size, defaults)


def _torchvision_defaults(name: str) -> dict[str, Any]:
    """Preprocessing of the architecture's own weights; every value None where torchvision has none."""
    weights = list(torchvision.models.get_model_weights(name))
    if not weights:
        return dict.fromkeys(("mean", "std", "size", "crop_fraction", "kernel"))
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


def _build_timm(
    name: str,
    weights: Path | None,
    conv_layer: str | None,
    is_pooled_anew: bool,
    size: Size | None,
    embedding: str | None,
) -> TorchNetwork:
    if not timm.is_model(name.split(".")[0]):  # refuses hub names as well: nothing is downloaded
        raise ExportError(f"timm has no model {name!r}{suggest(name, timm.list_models())}")
    title = f"timm/{name}"
    try:
        with quiet():
            network: Any = timm.create_model(name, pretrained=False, exportable=True).eval()
    except Exception as error:
        raise ExportError(f"{title}: cannot be built ({first_line(error)})") from error
    own = _token_pooling(network)
    if own is not None and conv_layer is not None and not is_pooled_anew:
        raise ExportError(
            f"{title}: its embedding is {own}, not a pooling of {conv_layer!r}; add --pool avg to pool this "
            "layer, or leave --conv-layer out"
        )
    config = network.pretrained_cfg
    native = tuple(int(n) for n in config["input_size"][1:])
    heads = config.get("classifier") or ()
    notes = load_checkpoint(network, weights, title, (heads,) if isinstance(heads, str) else tuple(heads))
    if size is not None and size != native and hasattr(network, "set_input_size"):
        # After loading: the network resamples the position embeddings that it was trained with.
        try:
            with quiet():
                network.set_input_size(img_size=size)
        except Exception as error:
            raise ExportError(f"{title}: cannot take {size[0]}x{size[1]} ({first_line(error)})") from error
        network.eval()
    layout = _timm_layout(network, title)
    # timm's VGG has convolutions as large as the map between it and the pooling: cut before these.
    is_cut = conv_layer is not None or is_pooled_anew or type(network).__name__ == "VGG"
    if embedding is None and not is_cut and network.num_classes > 0:
        notes += (
            f"the last layer, to {network.num_classes} features, is left out (num_classes=0); "
            "--embedding output keeps it, CLIP's projection say",
        )
        with quiet():
            network.reset_classifier(0)
    interpolation = config.get("interpolation")
    defaults = {
        "mean": tuple(float(v) for v in config["mean"]),
        "std": tuple(float(v) for v in config["std"]),
        "size": native,
        "crop_fraction": float(config["crop_pct"]) if config.get("crop_pct") else None,
        "kernel": str(interpolation) if interpolation else None,
    }
    module = FeatureMap(network, conv_layer, layout) if is_cut else network
    takes_one_size = own is not None and not is_cut
    return _classifier(module, title, "output", layout.grid, notes, takes_one_size, defaults)


def _token_pooling(network: Any) -> str | None:
    """How a timm network makes its embedding of tokens; None where it pools a feature map."""
    head = getattr(network, "head", None)
    if getattr(network, "attn_pool", None) is not None or "Attention" in type(head).__name__:
        return "a pooling by attention weights"
    return "a class token" if getattr(network, "global_pool", None) in ("token", "tok") else None


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


def _classifier(
    module: nn.Module,
    title: str,
    embedding: Literal["output", "pooled"],
    grid: Size | None,
    notes: tuple[str, ...],
    takes_one_size: bool,
    defaults: Mapping[str, Any],
) -> TorchNetwork:
    return TorchNetwork(
        module.eval().requires_grad_(False),
        title,
        ("conv",) if isinstance(module, FeatureMap) else ("output",),
        embedding=embedding,
        is_classifier=True,
        grid=grid,
        notes=notes,
        takes_one_size=takes_one_size,
        **defaults,
    )


def _build_module(
    name: str, weights: Path | None, conv_layer: str | None, is_pooled_anew: bool
) -> TorchNetwork:
    network = call_factory(name)
    notes = load_checkpoint(network, weights, name) if weights is not None else ()
    if conv_layer is None:
        return TorchNetwork(network, f"module/{name}", notes=notes)
    title = f"module/{name}"
    if is_pooled_anew:
        return TorchNetwork(
            FeatureMap(network, conv_layer, Layout(title)).eval(), title, ("conv",), notes=notes
        )
    return TorchNetwork(Tap(network, conv_layer).eval(), title, ("output", "conv"), notes=notes)
