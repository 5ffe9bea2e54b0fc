"""Fine-tune a timm network on a labelled folder with the triplet loss, and keep checkpoints to compare.

    python -m simmap.export.finetune photos configs/efficientnet_lite0.yaml -o run --save 0,1,3,10
    for step in 000 001 003 010; do
        simmap export run/recipe.yaml --weights run/epoch_$step.pth -o run/epoch_$step.onnx
    done
    simmap contrast --models run/epoch_*.onnx --steps 0,1,3,10 QUERY --index-folder run/held_out -o steps.png

An example for users of pytorch-metric-learning (the extra ``train``), in a form that is short enough to
read and to change: a triplet loss, whose checkpoints make figures 5 to 7 of arXiv 1901.00536. Half of each
class's images are held out: what a contrast shows of images that were trained on says little. The field's
benchmarks hold out whole classes instead; ``split`` is the place for that, where a folder has many, or where
the photos of a class are of one shoot and so nearly alike. To choose among checkpoints by the held-out images
and to report them too is to be kind to oneself: keep others for the report.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import nn

from simmap.engine.contract import InputSpec
from simmap.engine.dataset import Item, find_images
from simmap.engine.decompose import GEM_EPS
from simmap.engine.errors import ConfigError, OutputError, SimmapError
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess

from .recipe import Recipe, load_recipe
from .sources.networks import build
from .sources.reference import normalise

PER_CLASS = 4  # images of a class in a batch
CLASSES = 8  # classes in a batch
SMALLEST_CROP = 0.75  # of the side, when a training image is varied


def finetune(
    folder: Path,
    recipe: Recipe,
    output: Path,
    *,
    epochs: int = 10,
    save: Sequence[int] = (0, 1, 3, 10),
    learning_rate: float = 1e-4,
    whole: bool = False,
    seed: int = 0,
) -> list[Path]:
    """Train, and write ``recipe.yaml``, ``held_out/`` and a state dict for each epoch in ``save``.

    Args:
        folder: images, one sub-folder a class.
        recipe: of a timm network, with its weights to start from, its pooling and its input.
        output: new folder for what is written; ``held_out`` has links to the images not trained on.
        epochs: of as many images as are trained on, of some more often than of others.
        save: epochs after which to keep a checkpoint; 0 is the start.
        learning_rate: of Adam.
        whole: train on every image of the folder, and hold out none.
        seed: of the split, random weights, the order, the crops and the flips.

    Returns:
        The checkpoints, in order.

    Raises:
        ConfigError: the recipe is not of a timm network, the folder has fewer than two classes with four
            images, or an epoch to save is never reached.
        OutputError: the output folder exists and is not empty.
        ExportError: the architecture is unknown, or the weights are unavailable.
    """
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import TripletMarginMiner

    if recipe.timm is None:
        raise ConfigError("this example trains timm networks; give a recipe with the key 'timm'")
    if recipe.conv_layer is not None:
        raise ConfigError("this example pools the last feature map; leave conv_layer out of the recipe")
    if not save or not all(0 <= epoch <= epochs for epoch in save):
        raise ConfigError(f"the epochs to save are {list(save)}, must lie between 0 and {epochs}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output}: exists already; give a new folder")
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    training, held_out = split(find_images(folder), rng, whole=whole)
    weights = recipe.weights_path()
    source = build("timm", recipe.timm, weights=weights, size=recipe.size)
    # What the recipe leaves open the architecture says; the weights are those of each checkpoint.
    recipe = replace(
        recipe,
        weights=None,
        size=recipe.size or source.size,
        mean=recipe.mean or source.mean,
        std=recipe.std or source.std,
        crop_fraction=recipe.crop_fraction or source.crop_fraction,
    )
    facts = {key: value for key, value in asdict(recipe).items() if value not in (None, False)}
    spec = _input_spec(facts)
    pixels = [preprocess(load(item.path).pixels, spec)[0] for item in training]
    network: Any = source.module.requires_grad_(True).to(memory_format=torch.channels_last)

    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "recipe.yaml").write_text(yaml.safe_dump(_plain(facts), sort_keys=False))
        for item in held_out:
            link = output / "held_out" / Path(item.path).relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(item.path).resolve())
    except OSError as error:
        raise OutputError(f"{error.filename or output}: cannot be written: {error.strerror}") from error

    loss_of, miner = TripletMarginLoss(margin=0.1), TripletMarginMiner(margin=0.2, type_of_triplets="all")
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    names = sorted({str(item.label) for item in training})
    classes = np.array([names.index(str(item.label)) for item in training])
    kept = []
    for epoch in range(epochs + 1):
        losses = []
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and weights is not None:
                # Few images make poor statistics: those of the weights to start from stay.
                module.eval()
        for chosen in _batches(classes, rng) if epoch else ():
            batch = normalise(np.stack([_varied(pixels[i], rng) for i in chosen]), spec)
            inputs = torch.from_numpy(batch).to(memory_format=torch.channels_last)
            embedding = pool(network.forward_features(inputs), recipe.pool or "avg", recipe.p or 3.0)
            target = torch.from_numpy(classes[chosen])
            loss = loss_of(embedding, target, miner(embedding, target))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        if epoch:
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}", file=sys.stderr)
        if epoch in save:
            kept.append(output / f"epoch_{epoch:03d}.pth")
            torch.save(network.state_dict(), kept[-1])
    return kept


def pool(conv: torch.Tensor, kind: str, p: float) -> torch.Tensor:
    """The pooled feature (N, C) of maps (N, C, H, W), as ``engine.decompose.pool`` has it."""
    if kind == "gem":
        return conv.clamp(min=GEM_EPS).pow(p).mean((2, 3)).pow(1 / p)
    average, maximum = conv.mean((2, 3)), conv.amax((2, 3))
    kinds = {"avg": average, "max": maximum, "avgmax": 0.5 * (average + maximum)}
    return kinds[kind] if kind in kinds else torch.cat((average, maximum), 1)


def split(items: Sequence[Item], rng: np.random.Generator, *, whole: bool) -> tuple[list[Item], list[Item]]:
    """Half of each class's images to train on, and the other half; classes of fewer than four are left out.

    With ``whole`` every image of these classes is trained on, and the other list is empty.

    Raises:
        ConfigError: fewer than two classes have four images.
    """
    training, held_out = [], []
    for label in sorted({item.label for item in items if item.label is not None}):
        members = [item for item in items if item.label == label]
        if len(members) >= 4:
            order = [members[i] for i in rng.permutation(len(members))]
            half = len(order) if whole else len(order) // 2
            training += order[:half]
            held_out += order[half:]
    if len({item.label for item in training}) < 2:
        raise ConfigError("training needs at least two sub-folders with at least four images each")
    return training, held_out


def _input_spec(facts: dict[str, Any]) -> InputSpec:
    """The preprocessing that export will write into the artifacts."""
    height, width = facts["size"]
    keys = ("colour", "resize", "kernel", "crop_fraction", "mean", "std")
    return InputSpec(height=height, width=width, **{key: facts[key] for key in keys if key in facts})


def _batches(classes: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of a few images of a few classes, class by class in turn, until as many as there are images."""
    drawn = 0
    while drawn < len(classes):
        order = rng.permutation(np.unique(classes))
        for chosen in np.array_split(order, -(-len(order) // CLASSES)):
            members = [np.flatnonzero(classes == one) for one in chosen]
            batch = np.concatenate([rng.choice(m, min(PER_CLASS, len(m)), replace=False) for m in members])
            drawn += len(batch)
            yield batch


def _varied(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random part of the image, scaled back, and a flip every other time."""
    height, width = pixels.shape[:2]
    part = rng.uniform(SMALLEST_CROP, 1)
    h, w = int(height * part), int(width * part)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    crop = cv2.resize(pixels[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(crop[:, ::-1] if rng.random() < 0.5 else crop, np.uint8)


def _plain(facts: dict[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}


def main() -> int:
    """The command line of this example; exit codes as for ``simmap``."""
    parser = argparse.ArgumentParser(description="Fine-tune a timm network with the triplet loss.")
    parser.add_argument("folder", type=Path, help="images, one sub-folder a class")
    parser.add_argument("recipe", type=Path, help="recipe of a timm network, with the weights to start from")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder for the checkpoints")
    parser.add_argument("--pool", choices=("avg", "max"), help="pooling, instead of the recipe's")
    parser.add_argument("--scratch", action="store_true", help="start from random weights")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of both sides, instead of the recipe's")
    parser.add_argument("--whole", action="store_true", help="train on every image, hold out none")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--save", default="0,1,3,10", help="epochs to keep, separated by commas")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        save = [int(epoch) for epoch in given.save.split(",")]
    except ValueError:
        parser.error(f"--save is {given.save!r}, must be numbers separated by commas")
    try:
        recipe = load_recipe(given.recipe, {"pool": given.pool, "size": given.size})
        if given.scratch:
            recipe = replace(recipe, weights=None)
        kept = finetune(
            given.folder, recipe, given.output, epochs=given.epochs, save=save,
            learning_rate=given.learning_rate, whole=given.whole, seed=given.seed,
        )  # fmt: skip
    except ImportError as error:
        print(f"simmap: {error}; run: pip install 'simmap[train]'", file=sys.stderr)
        return 1
    except SimmapError as error:
        print(f"simmap: {error}", file=sys.stderr)
        return 1
    for path in kept:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
