"""The contract: what is written is read back, and what this version does not know is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.contract import CONTRACT_KEY, SCHEMA_KEY, Contract, InputSpec, encode_bias
from simmap.engine.errors import ArtifactError

PLAIN = Contract(
    input=InputSpec(height=224, width=160, colour="bgr", resize="letterbox", kernel="cubic"),
    pooling="avg",
    head="affine",
    channels=8,
    dimension=3,
    grid_height=7,
    grid_width=5,
    fingerprint="f",
    bias=encode_bias(np.array([1.0, -2.0, 0.5])),
    source={"kind": "onnx", "name": "net.onnx"},
    parity={"conv": {"absolute": 1e-6, "relative": 1e-7, "tolerance": 1e-4}},
)


def test_a_contract_survives_its_metadata() -> None:
    read = Contract.from_metadata(PLAIN.to_metadata(), name="net.onnx")
    assert read == PLAIN
    assert read.bias_vector is not None
    np.testing.assert_array_equal(read.bias_vector, np.float32([1.0, -2.0, 0.5]))
    assert read.outputs == ("conv", "pooled", "embedding", "parts")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_a_bias_survives_exactly(values: list[float]) -> None:
    contract = Contract(
        PLAIN.input, "avg", "affine", 8, len(values), 7, 5, "f", bias=encode_bias(np.array(values))
    )
    read = Contract.from_metadata(contract.to_metadata(), name="m").bias_vector
    np.testing.assert_array_equal(read, np.float32(values))


def test_schema_1_is_written_where_it_says_everything() -> None:
    metadata = PLAIN.to_metadata()
    data = json.loads(metadata[CONTRACT_KEY])
    assert metadata[SCHEMA_KEY] == "1" and not {"rest", "reference"} & set(data)
    read = Contract.from_metadata(metadata, name="net.onnx")
    assert (read.rest, read.reference) == ("constant", "zero")


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        ({"head": "gated", "rest": "image", "bias": None}, ("conv", "pooled", "embedding", "parts")),
        ({"head": "gated"}, ("conv", "pooled", "embedding", "parts")),
        ({"reference": "blank"}, ("conv", "pooled", "embedding", "parts")),
        ({"pooling": "attention"}, ("conv", "embedding", "parts")),
        ({"pooling": "token", "head": "gated", "rest": "image", "bias": None}, ("embedding", "parts")),
    ],
)
def test_what_schema_1_cannot_say_is_written_as_schema_2(
    fields: dict[str, Any], outputs: tuple[str, ...]
) -> None:
    contract = replace(PLAIN, **fields)
    metadata = contract.to_metadata()
    assert metadata[SCHEMA_KEY] == "2"
    assert Contract.from_metadata(metadata, name="net.onnx") == contract
    assert contract.outputs == outputs and contract.explained == ("embedding", "parts")


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    """The metadata of ``PLAIN`` with one change to its JSON."""
    metadata = PLAIN.to_metadata()
    data = json.loads(metadata[CONTRACT_KEY])
    change(data)
    return {**metadata, CONTRACT_KEY: json.dumps(data)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(pooling="rmac"), "pooling is 'rmac', must be one of avg, max"),
        (lambda d: d.update(pooling=["avg"]), r"pooling is \['avg'\], must be one of"),
        (lambda d: d.update(colour="rgb"), "unknown key 'colour'"),
        (lambda d: d["input"].update(layout="NCHW"), "input has the unknown key 'layout'"),
        (lambda d: d["input"].update(resize="pad"), "input.resize is 'pad', must be one of squash"),
        (lambda d: d["input"].update(height="224"), r"input.height is '224' \(str\), must be a whole number"),
        (lambda d: d["input"].update(height=True), "input.height is True"),
        (lambda d: d["input"].update(height=0), "input.height is 0, must be at least 1"),
        (lambda d: d["input"].update(mean=[0.5, 0.5]), "input.mean .* must be a list of 3 numbers"),
        (lambda d: d["input"].update(std=[0.5, 0, 0.5]), "std not 0"),
        (lambda d: d["input"].update(crop_fraction=0), "crop_fraction is 0"),
        (lambda d: d["input"].pop("width"), "input.width is missing"),
        (lambda d: d.pop("channels"), "channels is missing"),
        (lambda d: d.update(input=[1]), r"input is \[1\] \(list\), must be a mapping"),
        (lambda d: d.update(head="none"), "dimension is 3, must be 8 without a head"),
        (lambda d: d.update(head="none", dimension=8), "bias is given, but head is 'none'"),
        (lambda d: d.update(pooling="flatten", head="none"), "pooling 'flatten' needs 'affine' or 'gated'"),
        (
            lambda d: d.update(pooling="attention", head="none"),
            "pooling 'attention' needs 'affine' or 'gated'",
        ),
        (lambda d: d.update(head="gate"), "head is 'gate', must be one of none, affine, gated"),
        (lambda d: d.update(rest="image"), "rest is 'image', but head is 'affine'"),
        (lambda d: d.update(rest="image", head="gated"), "bias is given, but rest is 'image'"),
        (lambda d: d.update(rest="any"), "rest is 'any', must be one of constant, image"),
        (lambda d: d.update(reference="grey"), "reference is 'grey', must be one of zero, blank, images"),
        (
            lambda d: d.update(head="none", dimension=8, bias=None, reference="blank"),
            "reference is 'blank', needs head",
        ),
        (lambda d: d.update(pooling="gem"), "p is None, pooling 'gem' needs an exponent"),
        (lambda d: d.update(bias="AAAA"), "bias has 3 bytes, must have 12"),
        (lambda d: d.update(bias="not base64!"), "bias is not base64"),
        (lambda d: d.update(bias=encode_bias(np.full(3, np.nan))), "bias is not finite"),
    ],
)
def test_what_is_not_known_is_refused_by_the_name_of_the_field(
    change: Callable[[dict[str, Any]], None], told: str
) -> None:
    with pytest.raises(ArtifactError, match=told) as caught:
        Contract.from_metadata(changed(change), name="net.onnx")
    assert str(caught.value).startswith("net.onnx: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "not a simmap artifact .* simmap export --onnx net.onnx"),
        ({SCHEMA_KEY: "1"}, "not a simmap artifact"),
        ({SCHEMA_KEY: "3", CONTRACT_KEY: "{}"}, "schema 3, this simmap reads up to 2; upgrade"),
        ({SCHEMA_KEY: "one", CONTRACT_KEY: "{}"}, "'one', not a version number"),
        ({SCHEMA_KEY: "1", CONTRACT_KEY: "{"}, "is not JSON"),
        ({SCHEMA_KEY: "1", CONTRACT_KEY: "[]"}, "must be a mapping"),
    ],
)
def test_files_without_a_contract_say_what_is_missing(metadata: dict[str, str], told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        Contract.from_metadata(metadata, name="net.onnx")
