"""A contract that does not describe its graph is found by the sum of the parts."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import contract_of, rewritten

from common import ARTIFACTS, MODEL, PHOTOS
from simmap.engine import ArtifactError, Engine, ImageError
from simmap.engine.contract import Contract, encode_bias
from simmap.engine.options import Options
from simmap.engine.places import EVERY, TOLERANCE, SumCheck, parts_of
from simmap.engine.runtime.session import Session, open_session

NAMES = sorted(path.stem for path in ARTIFACTS.glob("*.onnx"))
IMAGE_RESTS = ("gated", "token")
PHOTO = PHOTOS / "buddha_a.jpg"
SESSIONS: dict[Path, Session] = {}


def session_of(path: Path) -> Session:
    """One session an artifact, opened once."""
    if path not in SESSIONS:
        SESSIONS[path] = open_session(path, device="cpu", threads=1)
    return SESSIONS[path]


def shift_bias(contract: dict[str, object]) -> None:
    """Another constant than the graph adds."""
    dimension = contract["dimension"]
    assert isinstance(dimension, int)
    contract["bias"] = encode_bias(np.full(dimension, 0.5))


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("avg", lambda c: c.update(pooling="max"), "pooling 'max'"),
        ("avg", lambda c: c.update(pooling="avgmax"), "pooling 'avgmax'"),
        ("max", lambda c: c.update(pooling="avg"), "pooling 'avg'"),
        ("max", lambda c: c.update(pooling="gem", p=3.0), "pooling 'gem', p = 3"),
        ("gem", lambda c: c.update(p=2.6), "pooling 'gem', p = 2.6"),
        ("affine_bias", lambda c: c.update(bias=None), "parts and bias"),
        ("affine_bias", shift_bias, "parts and bias"),
        ("flatten", shift_bias, "parts and bias"),
    ],
)
def test_a_lie_is_an_error_that_names_the_field_whatever_is_asked_for(
    name: str, change: object, named: str, tmp_path: Path
) -> None:
    path = rewritten(tmp_path, ARTIFACTS / f"{name}.onnx", change, signed=True)  # type: ignore[arg-type]
    for workers in (1, 2):
        for use in ("embed", "vectors", "maps", "compare"):
            with Engine(
                path, device="cpu", options=Options(threads=2, workers=workers, cache=False)
            ) as engine:
                arguments = [np.ones(engine.contract.dimension, np.float32)] if use == "maps" else []
                images = (PHOTO, PHOTO) if use == "compare" else ([PHOTO], *arguments)
                with pytest.raises(ArtifactError, match=f"its {named} do not give its") as caught:
                    tuple(getattr(engine, use)(*images))
                assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_an_image_without_a_direction_leaves_the_check_to_the_next(tmp_path: Path) -> None:
    path = rewritten(tmp_path, ARTIFACTS / "fragile.onnx", lambda c: c.update(pooling="max"), signed=True)
    with Engine(path, device="cpu", options=Options(threads=1, cache=False)) as engine:
        for value in (0, 200):
            with pytest.raises(ImageError):
                list(engine.vectors([np.full((20, 20, 3), value, np.uint8)]))
        with pytest.raises(ArtifactError, match="pooling 'max'"):
            list(engine.vectors([PHOTO]))


# Where the rest depends on the image, it is what the sum lacks.
@pytest.mark.parametrize("name", [*(name for name in NAMES if name not in IMAGE_RESTS), "model"])
@given(st.integers(0, 10**6))
def test_honest_artifacts_are_far_from_the_tolerance(name: str, seed: int) -> None:
    path = MODEL if name == "model" else ARTIFACTS / f"{name}.onnx"
    session = session_of(path)
    spec = session.contract.input
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (spec.height, spec.width, 3)) * rng.random() + rng.integers(0, 2) * 80
    image = np.clip(image, 0, 255).astype(np.uint8)
    embedding, places = (output[0] for output in session.infer([image], session.contract.explained))
    # The sum written out, in float64.
    parts = parts_of(session.contract, places).astype(np.float64)
    bias = session.contract.bias_vector
    total = sum(parts[y, x] for y in range(parts.shape[0]) for x in range(parts.shape[1]))
    if bias is not None:
        total = total + bias.astype(np.float64)
    size = np.linalg.norm(embedding) + np.linalg.norm(np.abs(parts).sum(axis=(0, 1)))
    assert np.linalg.norm(total - embedding) <= TOLERANCE / 8 * size
    SumCheck(session.contract, path).check(embedding, places)


@given(st.floats(1e-20, 1e18), st.floats(0, 1e-2), st.integers(0, 1000))
def test_a_difference_beyond_rounding_is_found_at_any_size(size: float, share: float, seed: int) -> None:
    contract = Contract(
        session_of(ARTIFACTS / "affine_bias.onnx").contract.input, "avg", "affine", 4, 3, 2, 2, "f"
    )
    rng = np.random.default_rng(seed)
    parts = (size * rng.uniform(0.1, 1, (2, 2, 3))).astype(np.float32)
    embedding = parts.astype(np.float64).sum(axis=(0, 1))
    wrong = (embedding * (1 + share)).astype(np.float32)
    # All values are positive, so the sizes of sum and embedding add up to about 2.
    check = SumCheck(contract, Path("m.onnx"))
    if share / 2 > TOLERANCE * 1.1:
        with pytest.raises(ArtifactError):
            check.check(wrong, parts)
    elif share / 2 < TOLERANCE * 0.9:
        check.check(wrong, parts)


def test_the_first_run_is_checked_and_one_of_many_after_it() -> None:
    session = open_session(ARTIFACTS / "avg.onnx", device="cpu", threads=1)
    spec = session.contract.input
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    embedding, places = (output[0] for output in session.infer([image], session.contract.explained))
    for once, expected in ((False, [0, EVERY, 2 * EVERY, 3 * EVERY]), (True, [0])):
        check = SumCheck(session.contract, session.path, once=once)
        checked = []
        for run in range(3 * EVERY + 5):
            if check.due():
                checked.append(run)
                check.check(embedding, places)
        assert checked == expected


def test_what_was_not_checked_stays_due() -> None:
    session = session_of(ARTIFACTS / "avg.onnx")
    check = SumCheck(session.contract, session.path)
    assert check.due() and check.due()
    places = np.zeros((session.contract.channels, 8, 8), np.float32)
    check.check(np.full(session.contract.dimension, np.nan, np.float32), places)
    check.check(np.zeros(session.contract.dimension, np.float32), places)
    assert check.due()


def test_a_lie_of_the_shipped_models_contract_is_found(tmp_path: Path) -> None:
    assert contract_of(MODEL)["pooling"] == "avg"
    path = rewritten(tmp_path, MODEL, lambda c: c.update(pooling="max"), signed=True)
    with pytest.raises(ArtifactError, match="pooling 'max'"):
        Engine(path, device="cpu").compare(*sorted(PHOTOS.glob("*.jpg"))[:2])
