"""Train the small transformer of this folder: ``python tests/models/distill.py PHOTOS OUTPUT.onnx``.

A class-token transformer of 0.2 million weights learns the features of EfficientNet-Lite0: the cosine between
its output and the teacher's centred feature, projected on the first principal components, is the loss. Half
of the views are two photos' halves side by side, so that what lies where matters. Views, order and start are
of one seed; the teacher runs once a view.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import nn
from torch.nn import functional

from simmap.engine.dataset import find_images
from simmap.engine.images.decode import load
from simmap.export.exporter import export
from simmap.export.recipe import Recipe, load_recipe
from simmap.export.sources.networks import build

ROOT = Path(__file__).resolve().parents[2]
SIZE, TEACHER_SIZE = 96, 128
DIMENSION = 64
VIEWS = 4  # of each photo
SMALLEST_CROP = 0.5  # of the side
BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 2e-3, 0.05
SEED = 0
Views = npt.NDArray[np.uint8]


def student() -> nn.Module:
    """The transformer with random weights: 96 x 96 pixels, 6 x 6 patches, three blocks, 64 features."""
    network: nn.Module = timm.models.VisionTransformer(
        img_size=SIZE, patch_size=16, embed_dim=DIMENSION, depth=3, num_heads=4, num_classes=DIMENSION
    )
    return network


def make_views(folder: Path, rng: np.random.Generator) -> Views:
    """Crops of photos, every other one with a half of another crop, uint8 (n, side, side, 3)."""
    side = TEACHER_SIZE
    crops = []
    for item in find_images(folder):
        pixels = load(item.path).pixels
        for _ in range(VIEWS):
            part = rng.uniform(SMALLEST_CROP, 1)
            h, w = (int(part * length) for length in pixels.shape[:2])
            y, x = rng.integers(0, pixels.shape[0] - h + 1), rng.integers(0, pixels.shape[1] - w + 1)
            crop = cv2.resize(pixels[y : y + h, x : x + w], (side, side), interpolation=cv2.INTER_AREA)
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    views = np.array(crops)
    for at, other in zip(range(0, len(views), 2), rng.permutation(len(views)), strict=False):
        half = slice(0, side // 2) if at % 4 else slice(side // 2, side)
        if rng.random() < 0.5:
            views[at, :, half] = crops[other][:, half]
        else:
            views[at, half] = crops[other][half]
    return views


def targets(views: Views) -> torch.Tensor:
    """The teacher's centred features on their first principal components, (n, DIMENSION) unit vectors."""
    recipe = load_recipe(ROOT / "configs" / "efficientnet_lite0.yaml", {})
    source = build("timm", str(recipe.timm), weights=recipe.weights_path())
    teacher = source.module.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        features = torch.cat([teacher(tensor(views[i : i + BATCH])) for i in range(0, len(views), BATCH)])
        centred = features - features.mean(0)
        directions = torch.linalg.eigh(centred.T @ centred)[1][:, -DIMENSION:]
        return functional.normalize(centred @ directions)


def tensor(views: Views) -> torch.Tensor:
    """Float (n, 3, h, w) from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() / 127.5 - 1


def distill(views: Views, wanted: torch.Tensor, epochs: int) -> nn.Module:
    """The trained student, in eval mode."""
    torch.manual_seed(SEED)
    network = student()
    images = np.array([cv2.resize(v, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for v in views])
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.1
    )
    for epoch in range(epochs):
        cosines = []
        for chosen in torch.randperm(len(images))[: steps * BATCH].reshape(steps, BATCH):
            batch = tensor(images[chosen.numpy()])
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            cosine = functional.cosine_similarity(network(batch), wanted[chosen]).mean()
            optimiser.zero_grad()
            (1 - cosine).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            cosines.append(float(cosine.detach()))
        print(f"epoch {epoch + 1}: cosine with the teacher {np.mean(cosines):.4f}", flush=True)
    return network.eval()


def write(network: nn.Module, output: Path) -> None:
    """Export the student through the gate, its weights stored as float16."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.save(network.state_dict(), weights)
        recipe = Recipe(
            module="distill:student", weights=str(weights), size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5), precision="fp16",
        )  # fmt: skip
        export(recipe, output, force=True, trust=True)


def main() -> None:
    """Train, and write the artifact."""
    parser = argparse.ArgumentParser(description="Distil the small transformer of the tests.")
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("output", type=Path, help="artifact to write")
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    views = make_views(given.photos, np.random.default_rng(SEED))
    write(distill(views, targets(views), given.epochs), given.output)


if __name__ == "__main__":
    main()
