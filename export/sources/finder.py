"""Find, in PyTorch, the layer whose pooling is the embedding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from simmap.engine.errors import ExportError


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


def find_pooled_layer(network: nn.Module, example: torch.Tensor, title: str) -> tuple[str, str]:
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
        if id(leaf) not in leaves_of(logits, without=node):
            layers = [path for path, output in outputs if output is conv]
            if not layers:
                raise ExportError(f"{title}: no layer's output is what is pooled; name one with --conv-layer")
            return layers[-1], kind  # the outermost of those that end with the same tensor
    raise ExportError(
        f"{title}: has no feature map whose pooling is the embedding (a class token, or dense layers on "
        "the map); take a network that ends in a global pooling, or name a --conv-layer"
    )


def leaves_of(output: torch.Tensor, without: Any = None) -> set[int]:
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
