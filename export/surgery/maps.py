"""The graph that turns feature maps into maps where they lie, on a GPU."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from .exposure import Exposure
from .nodes import Nodes

PLACES = "places"


def map_graph(exposure: Exposure, *, dynamic: bool) -> onnx.ModelProto:
    """The graph that turns feature maps into maps against known directions where they lie, on a GPU.

    Returns:
        A model with the inputs ``places`` (N, C, H, W), or (N, H, W, D) ``parts`` where the artifact has
        them, and ``directions`` (N, D), and the output ``maps`` (N, H, W): ``parts[n, x] . d[n]`` as
        ``engine.decompose.direction_map`` has it, times ``|e|``.
    """
    builder = Nodes(exposure.shape, dynamic=dynamic)
    shape: list[str | int] = ["N", exposure.shape[0], "H", "W"]
    places, axis = PLACES, 1
    if exposure.has_head:
        shape, axis = ["N", "H", "W", "D"], 3
    else:
        shared = builder.add_pools(PLACES, exposure, needs_parts=True)[1]
        assert shared is not None
        places = shared
    others = builder.constant(np.array({1: [2, 3], 3: [1, 2]}[axis], dtype=np.int64), "others")
    directions = builder.add("Unsqueeze", ["directions", others], "broadcast")
    each = builder.add("Mul", [places, directions], "each")
    axes = builder.constant(np.array([axis], dtype=np.int64), "axes")
    builder.nodes.append(helper.make_node("ReduceSum", [each, axes], ["maps"], keepdims=0))
    graph = helper.make_graph(
        builder.nodes,
        "maps",
        [
            helper.make_tensor_value_info(PLACES, TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("directions", TensorProto.FLOAT, ["N", "D"]),
        ],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", "H", "W"])],
        initializer=builder.weights,
    )
    # ReduceSum and Unsqueeze take their axes as inputs from opset 13 on.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="simmap", ir_version=8
    )
    onnx.checker.check_model(model)
    return model
