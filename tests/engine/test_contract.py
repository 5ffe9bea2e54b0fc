"""The contract: what is written is read back, and what this version does not know is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from simmap.engine import decompose
from simmap.engine.contract import CONTRACT_KEY, SCHEMA_KEY, Contract, InputSpec, Pooling, encode_bias
from simmap.engine.errors import ArtifactError
from simmap.engine.schema import shortened

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
        (lambda d: d.update(bias="äöü²"), "bias is not base64"),
        (lambda d: d["input"].update(height=10**400), "input.height is 1000.*, must be at least 1 and below"),
        (lambda d: d["input"].update(mean=[10**400, 0, 0]), r"input.mean\[0\] is 1000.*, which is too large"),
        (lambda d: d.update(pooling="gem", p=float("nan")), "p is nan, pooling 'gem' needs an exponent"),
        (lambda d: d.update(pooling="gem", p=0.0), "p is 0.0, pooling 'gem' needs an exponent above 0"),
        (lambda d: d.update(pooling="gem", p=3, eps=0), "eps is 0.0, must be a number above 0"),
        (lambda d: d.update(pooling="gem", p=3, eps=float("inf")), "eps is inf, must be a number above 0"),
        (lambda d: d.update(p=3), "p or eps is given, but pooling is 'avg'"),
        (lambda d: d.update(parity=[1]), r"parity is \[1\] \(list\), must be a mapping"),
        (lambda d: d.update(parity={"conv": 1}), "parity.conv is 1, must be a mapping of numbers"),
        (
            lambda d: d.update(parity={"conv": {"absolute": "x"}}),
            "parity.conv.absolute is 'x', must be a number",
        ),
        (lambda d: d.update(parity={"conv": {"absolute": 1}}), "parity.conv lacks absolute or relative"),
        (lambda d: d.update(parity={"rest": {"absolute": 1}}), "parity.rest lacks share"),
        (lambda d: d.update(fidelity={"pairs": "many"}), "fidelity.pairs is 'many', must be a number"),
        (lambda d: d.update(fidelity={"pairs": True}), "fidelity.pairs is True, must be a number"),
        (
            lambda d: d.update(fidelity={"required": {"a": []}}),
            r"fidelity.required.a is \[\], must be a number",
        ),
        (lambda d: d.update(fidelity={"pairs": 10**400}), "fidelity.pairs is 1000.*, must be a number"),
        (lambda d: d.update(source={"name": 3}), "source.name is 3"),
        (lambda d: d.update(source={"a\x1b[2J": 3}), r"source.'a\\x1b\[2J' is 3"),
        (lambda d: d.update({"k" * 5000: 1}), "contract has the unknown key 'kkkk"),
        (lambda d: d.update(pooling="k" * 5000), "pooling is 'kkkk.*, must be one of avg"),
        (lambda d: d.update(bias=encode_bias(np.full(3, np.nan))), "bias is not finite"),
    ],
)
def test_what_is_not_known_is_refused_by_the_name_of_the_field(
    change: Callable[[dict[str, Any]], None], told: str
) -> None:
    with pytest.raises(ArtifactError, match=told) as caught:
        Contract.from_metadata(changed(change), name="net.onnx")
    assert str(caught.value).startswith("net.onnx: ")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, "avg", "²", "\x1b[2J", "rgb", "affine", "AAAA"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_value_of_any_field_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    contract = json.loads(PLAIN.to_metadata()[CONTRACT_KEY])
    contract["fidelity"] = {"pairs": 3, "required": {"same_nearest": 0.9}}
    for _ in range(data.draw(st.integers(1, 3))):
        holder = data.draw(
            st.sampled_from([contract, contract["input"], contract["parity"], contract["fidelity"]])
        )
        if isinstance(holder, dict) and holder:
            holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(JSON)
        if not all(isinstance(contract[key], dict) for key in ("input", "parity", "fidelity")):
            break
    metadata = {**PLAIN.to_metadata(), CONTRACT_KEY: json.dumps(contract)}
    try:
        read = Contract.from_metadata(metadata, name="net.onnx")
    except ArtifactError as error:
        line = str(error)
        event(line.split(" ")[1])
    else:
        # What is taken can be written, compared and printed.
        line = f"{read.channels} {read.p} {read.outputs} " + " ".join(
            f"{figures['absolute']:.2e} {figures['relative']:.2e}" for figures in read.parity.values()
        )
        assert Contract.from_metadata(read.to_metadata(), name="again").to_metadata() == read.to_metadata()
    assert line.isprintable() and len(line) < 500


@pytest.mark.parametrize("schema", ["²", "٣", "9" * 5000, "9" * 8, "-1", "0", "1.0", "", " 1", "\x1b[2J"])
def test_a_schema_is_a_small_number_in_plain_digits(schema: str) -> None:
    with pytest.raises(ArtifactError, match="not a version number") as caught:
        Contract.from_metadata({**PLAIN.to_metadata(), SCHEMA_KEY: schema}, name="net.onnx")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"a": ' + "9" * 5000 + "}"])
def test_deep_or_endless_json_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"net.onnx: simmap.contract is (not JSON|9)") as caught:
        Contract.from_metadata({**PLAIN.to_metadata(), CONTRACT_KEY: text}, name="net.onnx")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_the_poolings_of_a_contract_are_those_of_the_arithmetic_and_of_the_graph() -> None:
    assert set(get_args(Pooling)) == {
        *decompose.POOLINGS,
        "weights",
        "flatten",
        "attention",
        "token",
    }
    alpha = np.random.default_rng(0).random((4, 3, 2)).astype(np.float32)
    for pooling in decompose.POOLINGS:
        p = 2.0 if pooling == "gem" else None
        parts = decompose.alpha_hat(alpha, pooling, p=p)
        np.testing.assert_allclose(parts.sum(axis=(0, 1)), decompose.pool(alpha, pooling, p=p), rtol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "not a simmap artifact .* simmap export --onnx net.onnx"),
        ({SCHEMA_KEY: "1"}, "not a simmap artifact"),
        ({SCHEMA_KEY: "3", CONTRACT_KEY: "{}"}, "schema 3, this simmap reads up to 2; upgrade"),
        ({SCHEMA_KEY: "9999999", CONTRACT_KEY: "{}"}, "schema 9999999, this simmap reads up to 2; upgrade"),
        ({SCHEMA_KEY: "one", CONTRACT_KEY: "{}"}, "'one', not a version number"),
        ({SCHEMA_KEY: "1", CONTRACT_KEY: "{"}, "is not JSON"),
        ({SCHEMA_KEY: "1", CONTRACT_KEY: "[]"}, "must be a mapping"),
    ],
)
def test_files_without_a_contract_say_what_is_missing(metadata: dict[str, str], told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        Contract.from_metadata(metadata, name="net.onnx")


def test_what_an_input_leaves_out_is_imagenets() -> None:
    assert InputSpec(height=1, width=2) == InputSpec(
        1, 2, False, "rgb", "squash", "area", 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    with pytest.raises(AttributeError):
        InputSpec(height=1, width=2).height = 3  # type: ignore[misc]


def test_a_crop_may_keep_the_whole_shorter_side() -> None:
    whole = replace(PLAIN, input=replace(PLAIN.input, resize="crop", crop_fraction=1.0))
    assert Contract.from_metadata(whole.to_metadata(), name="f") == whole


def test_a_schema_of_today_is_read_and_the_next_one_is_not() -> None:
    data = PLAIN.to_metadata()
    assert Contract.from_metadata({**data, SCHEMA_KEY: "2"}, name="f") == PLAIN
    with pytest.raises(ArtifactError, match="has schema 3"):
        Contract.from_metadata({**data, SCHEMA_KEY: "3"}, name="f")


def test_long_values_and_keys_are_shortened_in_errors() -> None:
    assert shortened("x" * 38) == repr("x" * 38) and len(repr("x" * 38)) == 40
    assert shortened("x" * 39) == "'" + "x" * 36 + "..."
    for length, key in ((43, "k" * 43), (44, "k" * 40 + "...")):
        contract = {**json.loads(PLAIN.to_metadata()[CONTRACT_KEY]), "k" * length: 1}
        with pytest.raises(ArtifactError) as caught:
            Contract.from_metadata({SCHEMA_KEY: "2", CONTRACT_KEY: json.dumps(contract)}, name="f")
        assert f"unknown key {key!r};" in str(caught.value)


@pytest.mark.parametrize("field", ["height", "width", "channels", "dimension", "grid_height", "grid_width"])
def test_sizes_are_from_1_to_what_31_bits_hold(field: str) -> None:
    def of(size: int) -> dict[str, str]:
        def change(data: dict[str, Any]) -> None:
            data["bias"] = None
            (data["input"] if field in data["input"] else data)[field] = size

        return changed(change)

    for size in (1, 2**31 - 1):
        assert Contract.from_metadata(of(size), name="f")
    for size in (0, 2**31):
        with pytest.raises(ArtifactError, match=f"{field} is {size}, must be at least 1 and below"):
            Contract.from_metadata(of(size), name="f")
