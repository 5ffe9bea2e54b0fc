"""How the tests hold an artifact against its source, in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

import networks
from networks import Network
from simmap.engine import decompose
from simmap.engine.runtime.session import Session
from simmap.export.exporter import Report, export
from simmap.export.recipe import load_recipe

Array = npt.NDArray[Any]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def write(model: onnx.ModelProto, folder: Path) -> Path:
    """Save a source network."""
    path = folder / "source.onnx"
    onnx.save(model, str(path))
    return path


def run_export(path: Path, output: Path, **flags: Any) -> Report:
    """Export an ONNX file as the command line does."""
    return export(
        load_recipe(None, {"onnx": str(path), "mean": list(MEAN), "std": list(STD), **flags}), output
    )


def values_of(model: onnx.ModelProto, tensor: str, images: npt.NDArray[np.uint8]) -> Array:
    """What a tensor of the source is for uint8 photos, one photo at a time, in float64."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    last = next(i for i, node in enumerate(model.graph.node) if tensor in node.output)
    del probe.graph.output[:], probe.graph.node[last + 1 :]
    probe.graph.output.extend([onnx.ValueInfoProto(name=tensor)])
    for axis in probe.graph.input[0].type.tensor_type.shape.dim:
        if axis.dim_value > 3:
            axis.dim_param = f"free{axis.dim_value}"
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    dtype = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16}.get(entry.type, np.float32)
    rows = []
    for image in images:
        pixels: Array = image
        if dtype != np.uint8:
            pixels = (image / 255 - np.array(MEAN)) / np.array(STD)
        if entry.shape[3] != 3 or entry.shape[1] == 3:
            pixels = pixels.transpose(2, 0, 1)
        rows.append(session.run(None, {entry.name: pixels[None].astype(dtype)})[0])
    return np.concatenate(rows).astype(np.float64)


def maps_of(network: Network, images: npt.NDArray[np.uint8], grid: tuple[int, int]) -> Array:
    """The source's feature maps as (N, C, H, W)."""
    alpha = values_of(network.model, network.conv, images)
    if network.layout == "NHWC":
        return alpha.transpose(0, 3, 1, 2)
    if network.layout == "NLC":
        return alpha.transpose(0, 2, 1).reshape(len(images), -1, *grid)
    return alpha


def photos(
    session: Session, count: int, *, seed: int = 1, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Random smooth-ish photos in the artifact's size."""
    spec = session.contract.input
    height, width = size or (spec.height, spec.width)
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, size=(count, 1, 1, 3))
    noise = rng.integers(-120, 121, size=(count, height, width, 3))
    return (base + noise).clip(0, 255).astype(np.uint8)


def run_artifact(session: Session, images: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """The artifact's outputs by name."""
    names = [o.name for o in session.inference.get_outputs()]
    return dict(zip(names, session.inference.run(None, {"image": images}), strict=True))


def close(found: Array, expected: Array, tolerance: float) -> None:
    """Equal up to ``tolerance`` of the largest expected value."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def check_same(network: Network, session: Session, *, size: tuple[int, int] | None = None) -> None:
    """The artifact gives what the source and float64 arithmetic give, and maps sum to their scores."""
    contract = session.contract
    tolerance = 5e-3 if network.half else 1e-5
    assert contract.pooling == network.pooling
    assert contract.head == ("affine" if network.affine else "none")
    bias = np.zeros(contract.dimension) if contract.bias_vector is None else contract.bias_vector
    for count in (1, 3):
        images = photos(session, count, size=size)
        found = run_artifact(session, images)
        assert set(found) == set(contract.outputs)
        grid = (contract.grid_height, contract.grid_width) if size is None else found["conv"].shape[2:]
        if size is None:
            assert grid == network.grid
        alpha = maps_of(network, images, grid)
        assert alpha.std() > 0.01
        close(found["conv"], alpha, tolerance)
        expected = np.stack([network.head(a) for a in alpha])
        if network.pool is not None:
            close(found["pooled"], np.stack([network.pool(a) for a in alpha]), tolerance)
        else:
            assert "pooled" not in found
        embedding = found["embedding" if network.affine else "pooled"]
        assert embedding.shape == (count, contract.dimension)
        close(embedding, expected, tolerance)
        if network.affine:
            parts = found["parts"]
            assert parts.shape == (count, *grid, contract.dimension)
            assert np.abs(parts.sum(axis=(1, 2), dtype=np.float64) + bias - embedding).max() <= 1e-5 * max(
                1, np.abs(embedding).max()
            )
        else:
            eps = 1e-6 if contract.eps is None else contract.eps
            hats = [decompose.alpha_hat(c, contract.pooling, p=contract.p, eps=eps) for c in found["conv"]]
            parts = np.stack(hats)
        for i, j in ((0, count - 1), (count - 1, 0)):
            u, v = (networks.unit(expected[k]) for k in (i, j))
            similarity = decompose.similarity_map(parts[i], embedding[i], embedding[j])
            left = decompose.residual(contract.bias_vector, embedding[i], embedding[j])
            assert similarity.shape == grid
            # A bias much larger than the embedding would cancel; the figure is relative to the terms.
            assert abs(similarity.sum(dtype=np.float64) + left - u @ v) <= max(1e-5, tolerance)
