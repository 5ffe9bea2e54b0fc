"""The closed forms of other methods' gradients against torch's autograd."""

from typing import Any

import numpy as np
import pytest

from common import ARTIFACTS, PHOTOS
from simmap.engine import Engine
from simmap.engine.analysis.orders import activations_and_gradient, order_maps
from simmap.engine.contract import Contract

torch = pytest.importorskip("torch")

PAIR = [PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"]


def pooled(alpha: Any, contract: Contract) -> Any:
    """Pooling by torch; a maximum's gradient goes to its places in equal shares."""
    if contract.pooling == "gem":
        eps = contract.eps or 1e-6
        return alpha.clamp(min=eps).pow(contract.p).mean(dim=(1, 2)).pow(1 / (contract.p or 1))
    average, maximum = alpha.mean(dim=(1, 2)), alpha.amax(dim=(1, 2))
    return {"avg": average, "max": maximum, "catavgmax": torch.cat([average, maximum])}[contract.pooling]


@pytest.mark.parametrize("name", ["avg", "max", "gem", "catavgmax", "affine_bias", "flatten", "weights"])
def test_gradients_and_the_maps_made_of_them_are_autograds(name: str) -> None:
    with Engine(ARTIFACTS / f"{name}.onnx", device="cpu") as engine:
        contract = engine.contract
        image, other = engine.activations(PAIR)
    activations, gradient = activations_and_gradient(image, other, contract)
    alpha = torch.tensor(np.ascontiguousarray(activations), dtype=torch.float64, requires_grad=True)
    if image.alpha is None:
        rest = 0 if image.rest is None else torch.tensor(image.rest, dtype=torch.float64)
        embedding = alpha.sum(dim=(1, 2)) + rest
    else:
        embedding = pooled(alpha, contract)
    target = torch.tensor(other.embedding, dtype=torch.float64)
    torch.nn.functional.cosine_similarity(embedding, target, dim=0).backward()
    expected = alpha.grad.numpy()
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
    maps = order_maps(image, other, contract)
    weights = alpha.grad.mean(dim=(1, 2), keepdim=True)
    with torch.no_grad():
        grad_cam = torch.relu((weights * alpha).sum(dim=0)).numpy()
        layer_cam = torch.relu((torch.relu(alpha.grad) * alpha).sum(dim=0)).numpy()
    for order, values in (("grad_cam", grad_cam), ("layer_cam", layer_cam)):
        np.testing.assert_allclose(maps[order], values, atol=1e-4 * max(np.abs(values).max(), 1e-3))
