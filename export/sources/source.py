"""A network of any kind as an ONNX graph that knows its own values."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np

from simmap.engine import decompose
from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from ..recipe import Recipe
from ..surgery.analysis import analyse
from ..surgery.exposure import Exposure
from ..surgery.graph import Graph, load_onnx
from ..surgery.patches import Grid
from ..surgery.tokens import one_size
from .network import Kind
from .reference import Reference, onnx_reference
from .token_reference import token_reference


@dataclass(frozen=True)
class Source:
    """A network as an ONNX graph, what is known of it, and how to ask it for its own values.

    Attributes:
        graph: the network.
        reference: compares an artifact's outputs with the network's own values.
        conv_layer, pool, p, embedding, cells: what ``surgery.analysis`` is to look for.
        preprocessing: fields of ``InputSpec`` that the network was trained with; None where unknown.
        facts: for the contract's ``source``.
        libraries: distributions whose versions matter.
        notes: what a user should know of how the network came about, a sentence each.
    """

    graph: Graph
    reference: Callable[[Exposure], Reference]
    conv_layer: str | None
    pool: decompose.Pooling | None
    p: float | None
    embedding: str
    cells: Grid | None
    preprocessing: dict[str, Any]
    facts: dict[str, str]
    libraries: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def exposure(self) -> Exposure:
        """Where the feature map lies, its pooling, and the way to the embedding.

        Raises:
            ExportError: the embedding is no sum over places.
        """
        return analyse(
            self.graph,
            conv_layer=self.conv_layer,
            pool=self.pool,
            p=self.p,
            embedding=self.embedding,
            cells=self.cells,
        )


def open_source(recipe: Recipe) -> Source:
    """The network that a recipe names; ``module`` runs its code.

    Raises:
        ExportError: it cannot be built, read or exported to ONNX.
        ConfigError: its weights are unavailable.
    """
    return _open_onnx(recipe) if recipe.kind == "onnx" else _open_torch(recipe)


def _open_onnx(recipe: Recipe) -> Source:
    path = Path(recipe.name)
    graph = Graph(load_onnx(path), name=path.name, size=recipe.size)
    if recipe.dynamic:
        graph.free_size()
    return Source(
        graph,
        lambda exposure: _by_graph(graph, exposure),
        recipe.conv_layer,
        recipe.pool,
        recipe.p,
        recipe.embedding or "output",
        recipe.grid,
        {"size": graph.size},
        {"kind": "onnx", "name": path.name, "sha256": sha256(path.read_bytes()).hexdigest()},
    )


def _by_graph(graph: Graph, exposure: Exposure) -> Reference:
    """What the source's own graph gives."""
    if exposure.tokens is None or exposure.embedding is None:
        return onnx_reference(graph, exposure)
    return token_reference(graph, exposure.tokens, exposure)


def _open_torch(recipe: Recipe) -> Source:
    from . import networks, running, tracing

    weights = recipe.weights_path()
    kind = cast(Kind, recipe.kind)
    network = networks.build(
        kind,
        recipe.name,
        weights=weights,
        conv_layer=recipe.conv_layer,
        pool=recipe.pool,
        size=recipe.size,
        embedding=recipe.embedding,
    )
    if recipe.dynamic and network.takes_one_size:
        raise one_size(network.name)
    size = recipe.size or network.size or (224, 224)
    graph = Graph(tracing.to_onnx(network, size, dynamic=recipe.dynamic), name=network.name, size=size)

    def reference(exposure: Exposure) -> Reference:
        is_class_token = exposure.tokens is not None
        is_row = exposure.layout == "NLC" and not is_class_token
        if is_row and network.is_classifier and exposure.shape[1:] != network.grid:
            # Some networks (Hiera) keep their tokens in another order than that of the grid.
            raise ExportError(
                f"{network.name}: its {exposure.shape[1] * exposure.shape[2]} tokens lie on no known grid of "
                "places; name a --conv-layer"
            )

        by_graph = _by_graph(graph, exposure) if is_class_token else None

        def compare(batch: Array, ours: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
            wanted = {} if is_class_token else {"conv": ours["conv"]}
            if exposure.pooled is not None:
                wanted["pooled"] = ours["pooled"] * np.float32(exposure.pooled_scale)
            if "embedding" in ours:
                wanted["embedding"] = ours["embedding"]
            theirs, outputs = running.nearest_intermediates(network, batch, wanted)
            pairs = {} if by_graph is None else by_graph(batch, ours)
            pairs |= {name: (value, theirs[name]) for name, value in wanted.items()}
            if exposure.pooled is None and "pooled" in ours:  # a pooling that the network does not have
                eps = decompose.GEM_EPS if exposure.eps is None else exposure.eps
                pooled = decompose.pool(theirs["conv"], exposure.pooling, p=exposure.p, eps=eps)
                pairs["pooled"] = (ours["pooled"], pooled)
            if exposure.embedding in graph.outputs or exposure.is_normed:
                value = ours["embedding"] if "embedding" in ours else wanted["pooled"]
                # With a final L2 norm, what the network gives is the direction alone.
                is_direction = exposure.embedding not in graph.outputs
                length = np.linalg.norm(value, axis=1, keepdims=True) if is_direction else 1
                pairs["output"] = (value / length, outputs["output"])
            return pairs

        return compare

    facts = {"kind": recipe.kind, "name": recipe.name}
    if weights is not None:
        facts |= {"weights": weights.name, "sha256": sha256(weights.read_bytes()).hexdigest()}
    is_alone = network.outputs == ("conv",)
    return Source(
        graph,
        reference,
        "conv" if "conv" in network.outputs else None,
        recipe.pool or ("avg" if is_alone else None),
        recipe.p,
        recipe.embedding or network.embedding,
        recipe.grid,
        {"mean": network.mean, "std": network.std, "size": size, "crop_fraction": network.crop_fraction},
        facts,
        ("torch", *((recipe.kind,) if recipe.kind != "module" else ())),
        network.notes,
    )
