"""Embeddings of crops of photos, and any number of vectors like them."""

import cv2
import numpy as np
import numpy.typing as npt

from common import ROOT, Settings, photos
from simmap.engine import Engine, decompose

BLOCK = 2000  # vectors that are made at once

Floats = npt.NDArray[np.float32]


def embeddings(engine: Engine, options: Settings, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Embeddings of crops, and queries by other crops: whole ones and regions of them."""
    pixels = []
    for path in [*photos(options), *sorted((ROOT / "tests" / "photos").glob("*.jpg"))]:
        picture = cv2.imread(str(path))[:, :, ::-1]
        for _ in range(25):
            height, width = (int(rng.uniform(0.3, 0.8) * side) for side in picture.shape[:2])
            top, left = (
                int(rng.integers(0, a - b)) for a, b in zip(picture.shape, (height, width), strict=False)
            )
            pixels.append(np.ascontiguousarray(picture[top : top + height, left : left + width]))
    order = rng.permutation(len(pixels))
    crops = np.array([one.embedding for one in engine.vectors([pixels[at] for at in order[100:]])])
    whole, region = [], []
    for image in engine.embed([pixels[at] for at in order[:100]]):
        height, width = image.parts.shape[:2]
        weights = np.zeros((height, width), np.float32)
        top, left = rng.integers(0, height - 2), rng.integers(0, width - 2)
        weights[top : top + 3, left : left + 3] = 1
        whole.append(decompose.unit(image.embedding))
        region.append(decompose.region_query(image.parts, image.embedding, weights))
    return crops, np.array(whole), np.array(region)


def like(crops: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Unit vectors like those of more photos than there are.

    Each is a mixture of the embeddings of three crops, each feature times noise.
    """
    vectors = np.empty((count, crops.shape[1]), np.float32)
    for start in range(0, count, BLOCK):
        block = vectors[start : start + BLOCK]
        chosen = rng.integers(0, len(crops), (len(block), 3))
        shares = rng.dirichlet([0.5] * 3, len(block)).astype(np.float32)
        np.einsum("nk,nkd->nd", shares, crops[chosen], out=block)
        block *= np.exp(0.4 * rng.standard_normal(block.shape, np.float32))
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors
