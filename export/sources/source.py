"""A network of any kind as an ONNX graph that knows its own values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np

from simmap.engine.contract import Pooling
from simmap.engine.types import Array

from ..recipe import Recipe
from ..surgery.analysis import Exposure
from ..surgery.graph import Graph, load_onnx
from ..surgery.tokens import one_size
from .network import Kind
from .reference import Reference, onnx_reference
from .token_reference import token_reference


@dataclass(frozen=True)
class Source:
    """A network as an ONNX graph, what is known of it, and how to ask it for its own values."""

    graph: Graph
    reference: Callable[[Exposure], Reference]
    embedding: str
    conv_layer: str | None
    pool: Pooling | None
    p: float | None
    spec: dict[str, Any]
    facts: dict[str, str]
    libraries: tuple[str, ...]
    notes: tuple[str, ...]


def open_source(recipe: Recipe) -> Source:
    return _open_onnx(recipe) if recipe.kind == "onnx" else _open_torch(recipe)


def _open_onnx(recipe: Recipe) -> Source:
    path = Path(recipe.name)
    graph = Graph(load_onnx(path), name=path.name, size=recipe.size)
    if recipe.dynamic:
        graph.free_size()
    return Source(
        graph,
        lambda exposure: _by_graph(graph, exposure),
        recipe.embedding or "output",
        recipe.conv_layer,
        recipe.pool,
        recipe.p,
        {"size": graph.size},
        {"kind": "onnx", "name": path.name, "sha256": sha256(path.read_bytes()).hexdigest()},
        (),
        (),
    )


def _by_graph(graph: Graph, exposure: Exposure) -> Reference:
    """What the source's own graph gives."""
    if exposure.tokens is None or exposure.embedding is None:
        return onnx_reference(graph, exposure)
    return token_reference(graph, exposure.tokens, exposure.tail, exposure.embedding)


def _open_torch(recipe: Recipe) -> Source:
    from . import networks, running, tracing

    weights = recipe.weights_path()
    kind = cast(Kind, recipe.kind)
    network = networks.build(
        kind, recipe.name, weights=weights, conv_layer=recipe.conv_layer, pool=recipe.pool, size=recipe.size
    )
    if recipe.pool == "gem":
        network = replace(network, p=recipe.p or 3.0)
    if recipe.dynamic and network.takes_one_size:
        raise one_size(network.name)
    size = recipe.size or network.size or (224, 224)
    graph = Graph(tracing.to_onnx(network, size, dynamic=recipe.dynamic), name=network.name, size=size)
    cut = network.embedding == "pooled"

    def reference(exposure: Exposure) -> Reference:
        by_graph = _by_graph(graph, exposure)

        def run(batch: Array, found: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
            values = by_graph(batch, found)
            if "conv" in found:
                values["conv"] = (found["conv"], running.nearest_intermediate(network, batch, found["conv"]))
            if cut:
                values["pooled"] = (found["pooled"], running.run(network, batch))
            elif exposure.embedding is not None:
                # With a final L2 norm, what the network gives is the direction alone.
                ours = found["embedding" if "embedding" in found else "pooled"] * exposure.pooled_scale
                theirs = running.run(network, batch)
                if exposure.embedding not in graph.outputs and exposure.is_normed:
                    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
                values["output"] = (ours, theirs)
            return values

        return run

    facts = {"kind": recipe.kind, "name": recipe.name}
    if weights is not None:
        facts |= {"weights": weights.name, "sha256": sha256(weights.read_bytes()).hexdigest()}
    return Source(
        graph,
        reference,
        recipe.embedding or "output",
        network.conv_output,
        network.pooling if cut else recipe.pool,
        network.p,
        {"mean": network.mean, "std": network.std, "size": size, "crop_fraction": network.crop_fraction},
        facts,
        ("torch", *((recipe.kind,) if recipe.kind != "module" else ())),
        network.notes,
    )
