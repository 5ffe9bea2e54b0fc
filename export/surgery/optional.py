"""Outputs that an ordinary run leaves out.

ONNX Runtime computes every node of a graph, whatever is asked for. So what only these outputs need is taken
out of the graph and kept in the metadata, as one more piece of it: a reader that wants them appends it to the
file, since protobuf reads two graphs in a row as one.
"""

import onnx

from simmap.engine.contract import OPTIONAL

from .graph import reads


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.GraphProto | None]:
    """The model without the outputs ``OPTIONAL``, and what they need beside it; None where it has none."""
    outputs = [output for output in model.graph.output if output.name in OPTIONAL]
    if not outputs:
        return model, None
    needed = {output.name for output in model.graph.output} - set(OPTIONAL)
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    kept_ids = {id(node) for node in kept}
    # No name, which would take the place of the graph's.
    piece = onnx.GraphProto()
    piece.node.extend(node for node in model.graph.node if id(node) not in kept_ids)
    piece.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in needed)
    piece.output.extend(outputs)
    main = onnx.ModelProto()
    main.CopyFrom(model)
    del main.graph.node[:], main.graph.initializer[:], main.graph.output[:]
    main.graph.node.extend(kept[::-1])
    main.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    main.graph.output.extend(output for output in model.graph.output if output.name not in OPTIONAL)
    return main, piece
