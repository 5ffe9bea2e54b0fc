"""A network in PyTorch to a plain ONNX graph."""

import io
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnxsim
import torch

from simmap.engine.errors import ExportError
from simmap.engine.runtime.ort import cpu_session
from simmap.engine.types import Array

from .messages import first_line, quiet
from .network import Size, TorchNetwork
from .running import example_batch, forward

EXPORTER_KEY = "simmap.exporter"
"""Key in the metadata of a graph from ``to_onnx``: ``dynamo`` or ``torchscript``."""
_OPSET = 18  # the lowest that the dynamo exporter writes without converting versions


def to_onnx(network: TorchNetwork, size: Size, *, dynamic: bool) -> onnx.ModelProto:
    """Export the network to ONNX with all weights inside.

    The graph takes ``input`` (N, 3, height, width) float32, already normalised, N free, and gives
    ``network.outputs``. It is compared with PyTorch at batch 1 and 3 before it is returned. The dynamo
    exporter goes first; where it fails or is wrong, the TorchScript exporter follows (``EXPORTER_KEY`` in
    the metadata says which). With ``dynamic`` it is the other way round, and a second size is compared too.

    Args:
        size: (height, width) of the input; with ``dynamic`` only that of the example.
        dynamic: height and width are free too.

    Raises:
        ExportError: neither exporter gives a correct graph.
    """
    batches = [example_batch(3, size)]
    if dynamic:  # a tracer can write the size of its example into the graph
        batches.append(example_batch(2, (size[0] + 32, size[1] + 64)))
    # Fails here, with its own message, when the network itself does not run at these sizes.
    cases = [(batch, list(forward(network, batch).values())) for batch in batches]
    failures = []
    # With free sizes dynamo reasons on symbols, for minutes where padding depends on the size (213 s
    # against 0.5 s for tf_efficientnet_lite0); the check at a second size makes the older one safe.
    for exporter in ("torchscript", "dynamo") if dynamic else ("dynamo", "torchscript"):
        try:
            model = _export(network, size, dynamic=dynamic, dynamo=exporter == "dynamo")
            _strip(model)
            _check(model, cases)
        except Exception as error:  # exporters raise anything
            failures.append(f"{exporter}: {first_line(error)}")
            continue
        simplified = _simplify(model, cases)
        onnx.helper.set_model_props(simplified, {EXPORTER_KEY: exporter})
        return simplified
    free = " with other sizes free" if dynamic else ""
    raise ExportError(
        f"{network.name}: cannot be exported to ONNX at {size[0]}x{size[1]}{free} ({'; '.join(failures)})"
    )


def _export(network: TorchNetwork, size: Size, *, dynamic: bool, dynamo: bool) -> onnx.ModelProto:
    # Two images: a batch of one would be specialised, and the graph would take only one.
    example = (torch.from_numpy(example_batch(2, size)),)
    shapes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic:
        shapes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with quiet(), torch.no_grad():
        if dynamo:
            program = torch.onnx.export(
                network.module,
                example,
                input_names=["input"],
                output_names=list(network.outputs),
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
            network.module,
            example,
            cast(Any, buffer),
            input_names=["input"],
            output_names=list(network.outputs),
            dynamic_axes={"input": axes, **{name: {0: "batch"} for name in network.outputs}},
            opset_version=_OPSET,
            dynamo=False,
        )
        return onnx.load_from_string(buffer.getvalue())


Cases = Sequence[tuple[Array, Sequence[Array]]]
"""Batches, each with the outputs that PyTorch gives for it."""


def _check(model: onnx.ModelProto, cases: Cases) -> None:
    """Raise ValueError unless the graph gives what PyTorch gives, for whole batches and their first image."""
    session = cpu_session(model.SerializeToString())
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
        with quiet():
            simplified, _ = onnxsim.simplify(model)
        if len(simplified.graph.node) >= len(model.graph.node):
            return model
        _check(simplified, cases)
    except Exception:  # an optional step: the graph is right without it
        return model
    return cast(onnx.ModelProto, simplified)


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
