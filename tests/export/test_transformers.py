"""Embeddings that are read from a class token: artifacts against PyTorch by hooks in float64."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_transformers import FAMILIES, direct_effect, size_of

from checks import MEAN, STD, close, photos, run_artifact, run_export
from simmap.engine.runtime.session import Session, open_session
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe


def by_torch(family: str, output: Path, **flags: Any) -> Session:
    """Export a family's network from PyTorch and open the artifact."""
    height, width = size_of(family)
    settings = {
        "module": f"tiny_transformers:{family}",
        "size": f"{height}x{width}",
        "mean": list(MEAN),
        "std": list(STD),
    }
    report = export(load_recipe(None, {**settings, **flags}), output)
    return open_session(report.path, device="cpu")


def plain_onnx(family: str, path: Path, *, opset: int = 17, free_batch: bool = True) -> Path:
    """The network as a third party would export it: TorchScript, nothing simplified."""
    network = FAMILIES[family]()
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    buffer = io.BytesIO()
    example = torch.zeros(1, 3, *size_of(family))
    torch.onnx.export(
        network,
        (example,),
        buffer,
        opset_version=opset,
        dynamo=False,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}} if free_batch else None,
    )
    onnx.save(onnx.load_from_string(buffer.getvalue()), str(path))
    return path


def expected(family: str, images: Any) -> tuple[Any, Any]:
    """Embeddings and parts of uint8 photos, the embedding before a final L2 norm."""
    normalised = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    return direct_effect(FAMILIES[family](), normalised)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_what_the_patch_tokens_add_in_pytorch(family: str, tmp_path: Path) -> None:
    # given the same network exported from PyTorch and as a plain ONNX file
    ours = by_torch(family, tmp_path / "torch.onnx")
    report = run_export(plain_onnx(family, tmp_path / "source.onnx"), tmp_path / "onnx.onnx")
    theirs = open_session(report.path, device="cpu")
    for session in (ours, theirs):
        contract = session.contract
        assert (contract.pooling, contract.head, contract.rest) == ("token", "gated", "image")
        assert set(contract.outputs) == {"embedding", "parts"}
        assert contract.parity["blocks"]["relative"] < 1e-5
        for count in (1, 3):
            images = photos(session, count)
            embedding, parts = expected(family, images)
            grid = (contract.grid_height, contract.grid_width)
            # when the artifact runs
            found = run_artifact(session, images)
            # then its parts are those of the definition
            close(found["parts"], parts.reshape(count, *grid, -1), 2e-5)
            size = np.linalg.norm(found["embedding"], axis=1, keepdims=True)
            if family == "openclip":  # divides by its norm at the end, which no cosine sees
                np.testing.assert_allclose(found["embedding"] / size, embedding, atol=1e-5)
            else:
                close(found["embedding"], embedding, 1e-5)
            # and they carry a share of it that would show a mistake
            assert np.linalg.norm(parts.sum(axis=1)) > 0.1 * np.linalg.norm(found["embedding"])


@pytest.mark.parametrize("options", [{"opset": 13}, {"free_batch": False}], ids=str)
def test_older_and_fixed_files_give_the_same_parts(options: dict[str, Any], tmp_path: Path) -> None:
    # opset 13 writes a norm out; a fixed batch size writes the class token down once
    report = run_export(plain_onnx("vit", tmp_path / "source.onnx", **options), tmp_path / "out.onnx")
    session = open_session(report.path, device="cpu")
    images = photos(session, 3)
    embedding, parts = expected("vit", images)
    found = run_artifact(session, images)
    close(found["embedding"], embedding, 1e-5)
    close(found["parts"], parts.reshape(found["parts"].shape), 2e-5)
