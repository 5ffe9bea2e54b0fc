"""The contract of a simmap artifact: what an ``.onnx`` file says of itself in ``metadata_props``.

One file is all that a server needs. The graph takes ``image`` (N, height, width, 3) uint8 with
mean, std and layout folded in, and gives

- ``conv`` (N, C, H, W) float32, the last convolutional feature map, alpha (absent for pooling ``token``);
- ``pooled`` (N, C') float32, the pooled feature, beta (absent for ``flatten``, ``attention``, ``token``);
- with a head also ``embedding`` (N, D) and ``parts`` (N, H, W, D), both float32, with
  ``sum over places of parts + rest = embedding``. The rest is what no place owns.

The contract is one JSON object under the key ``simmap.contract``, its version under
``simmap.schema``; ONNX Runtime reads both without the onnx package. ``export`` writes it, in schema 1
where that says everything; the engine reads it and refuses, by the name of the field, what it does
not know. Under ``simmap.maps`` lies, in base64, a small ONNX graph from (``places``, ``directions``)
to ``maps``: what a GPU needs to keep feature maps to itself (see ``engine.runtime.cuda``). Under
``simmap.graph`` lies a sha256 over all graphs (see ``engine.runtime.fingerprint``), which older files lack.
An artifact of pooling ``token`` may have, under ``simmap.optional``, a piece of graph that gives two more
outputs when it is appended to its own (see ``engine.runtime.session``):

- ``tokens`` (N, H, W, D) float32, the embedding that each cell's patches would give as the class token;
- ``last_attention`` (N, H, W) float32, how the class token attends to each cell in the last block.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from . import decompose
from .errors import ArtifactError, PairGraphError, printable
from .schema import from_mapping, shortened
from .types import Triple

SCHEMA = 2
SCHEMA_KEY = "simmap.schema"
CONTRACT_KEY = "simmap.contract"
MAPS_KEY = "simmap.maps"
GRAPH_KEY = "simmap.graph"
OPTIONAL_KEY = "simmap.optional"
OPTIONAL = ("tokens", "last_attention")
PAIR_KEY = "simmap.pair"  # of a pair graph, which holds a contract but is no artifact
ChannelOrder = Literal["rgb", "bgr"]
Resize = Literal["squash", "crop", "letterbox"]
Kernel = Literal["area", "linear", "cubic"]
Pooling = Literal[decompose.Pooling, "weights", "flatten", "attention", "token"]
Head = Literal["none", "affine", "gated"]
Rest = Literal["constant", "image"]
Reference = Literal["zero", "blank", "images"]
Precision = Literal["fp32", "fp16", "fp16-cuda", "int8"]


@dataclass(frozen=True)
class InputSpec:
    """How a photo becomes the tensor ``image`` (N, height, width, 3) uint8.

    Attributes:
        height, width: pixels of the network's input; the default when ``dynamic``.
        dynamic: the graph takes other heights and widths too.
        colour: the order of the three channels that the graph takes.
        resize: ``squash`` stretches the photo to height x width; ``crop`` scales its shorter side to
            ``1 / crop_fraction`` of the input and cuts the centre; ``letterbox`` fits the whole photo
            in and fills the borders with the colour ``mean``.
        kernel: the resampling kernel (OpenCV's INTER_AREA, INTER_LINEAR, INTER_CUBIC).
        crop_fraction: share of the resized photo that ``crop`` keeps, in (0, 1].
        mean, std: of the training pipeline, in units of x / 255 and in the order ``colour``. The
            graph applies ``(x / 255 - mean) / std`` itself; the engine only fills borders with them.
    """

    height: int
    width: int
    dynamic: bool = False
    colour: ChannelOrder = "rgb"
    resize: Resize = "squash"
    kernel: Kernel = "area"
    crop_fraction: float = 0.875
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Contract:
    """All that the engine must know of an artifact.

    Attributes:
        input: how photos are prepared.
        pooling: how ``conv`` becomes ``pooled`` (see ``engine.decompose``); ``weights`` is a learned
            weight for each place and channel, ``flatten`` a linear layer straight on the map,
            ``attention`` a sum over places by attention weights that the image itself gives, ``token`` a
            class token that attends to patch tokens; these come with a head, since their arithmetic
            lives in the graph.
        p: the exponent of pooling ``gem``, else None.
        eps: the floor to which pooling ``gem`` clips ``conv``, else None.
        head: ``none`` (the embedding is ``pooled``), ``affine``, or ``gated``: linear given the image,
            with gates and the scales of norms read off the image itself and held. Both have the
            outputs ``embedding`` and ``parts``.
        bias: base64 of D little-endian float32, the constant rest of a head; None without one.
        channels, dimension: C of the feature map or tokens, and D of the embedding.
        grid_height, grid_width: H and W of the map at the default input size.
        precision: how the weights are stored; ``fp16`` is stored as float16, computed in float32;
            ``fp16-cuda`` is stored and computed as float16 up to ``conv``, in float32 from there on;
            ``int8`` is stored and computed as int8 in most convolutions, in float32 elsewhere.
        source: where the network came from: ``kind``, ``name`` and what else export recorded.
        versions: of the libraries that made the artifact.
        fingerprint: sha256 over the stored weights and the fields that change an embedding.
        parity: the figures of the export gate, by output; ``rest`` has the ``share`` of a photo's similarity
            with itself that no place owns.
        rest: what no place owns. ``constant``: ``bias``, the same for every image; ``image``: it depends on
            the image, ``rest_i = e_i - sum over places of parts_i``.
        reference: what ``parts`` are counted from: ``zero``, the parts of a ``blank`` photo, or the mean
            parts of ``images``; the rest holds what is subtracted.
        fidelity: of ``int8``, how far it ranks and explains as float32 does on photos that it was not
            calibrated on (see ``engine.analysis.agreement``); empty otherwise.
    """

    input: InputSpec
    pooling: Pooling
    head: Head
    channels: int
    dimension: int
    grid_height: int
    grid_width: int
    fingerprint: str
    p: float | None = None
    eps: float | None = None
    bias: str | None = None
    precision: Precision = "fp32"
    source: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    rest: Rest = "constant"
    reference: Reference = "zero"

    @property
    def has_parts(self) -> bool:
        """Whether the graph computes ``embedding`` and ``parts`` itself."""
        return self.head != "none"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs that this contract promises."""
        conv = () if self.pooling == "token" else ("conv",)
        pooled = () if self.pooling in ("flatten", "attention", "token") else ("pooled",)
        return (*conv, *pooled, *(("embedding", "parts") if self.has_parts else ()))

    @property
    def explained(self) -> tuple[str, str]:
        """Names of the outputs that are the embedding and what its places add to it."""
        return ("embedding", "parts") if self.has_parts else ("pooled", "conv")

    @cached_property
    def bias_vector(self) -> npt.NDArray[np.float32] | None:
        """The constant rest b (D,) of a head, read-only, or None."""
        if self.bias is None:
            return None
        return np.frombuffer(base64.b64decode(self.bias), dtype="<f4").astype(np.float32, copy=False)

    def to_metadata(self) -> dict[str, str]:
        """The ``metadata_props`` that carry this contract.

        In schema 1 where it says everything, so that older versions read the file too.
        """
        data = asdict(self)
        if _is_schema_1(self):
            del data["rest"], data["reference"]
        schema = 1 if _is_schema_1(self) else SCHEMA
        return {SCHEMA_KEY: str(schema), CONTRACT_KEY: json.dumps(data, sort_keys=True)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], *, name: str) -> "Contract":
        """Read and validate the contract of the file ``name``.

        Raises:
            PairGraphError: it is a pair graph (see ``engine.pair``).
            ArtifactError: there is no contract, its schema is newer, or a field is missing, unknown,
                of the wrong type or of a value that this version does not know.
        """
        if PAIR_KEY in metadata:
            raise PairGraphError(
                f"{name}: is a pair graph, which other runtimes run by themselves; "
                "give the artifact that it was made from"
            )
        if SCHEMA_KEY not in metadata or CONTRACT_KEY not in metadata:
            raise ArtifactError(
                f"{name}: is ONNX but not a simmap artifact (no {SCHEMA_KEY!r} in its metadata); "
                f"make one with: simmap export --onnx {name} -o OUT.onnx"
            )
        schema = metadata[SCHEMA_KEY]
        # Seven digits: int() refuses very many, and isdigit() alone accepts superscripts.
        if not (schema.isascii() and schema.isdigit() and len(schema) < 8) or int(schema) < 1:
            raise ArtifactError(
                f"{name}: {SCHEMA_KEY} is {shortened(schema)}, not a version number; export it again"
            )
        if int(schema) > SCHEMA:
            raise ArtifactError(
                f"{name}: its contract has schema {schema}, this simmap reads up to {SCHEMA}; upgrade simmap"
            )
        try:
            data = json.loads(metadata[CONTRACT_KEY])
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{name}: {CONTRACT_KEY} is not JSON ({error}); export the model again"
            ) from error
        try:
            contract = cast(Contract, from_mapping(Contract, data, "contract"))
            _validate(contract)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{name}: {error}; export it again or upgrade simmap") from error
        return contract


def encode_bias(bias: npt.NDArray[np.floating[Any]]) -> str:
    """Base64 of ``bias`` (D,) as little-endian float32, for ``Contract.bias``."""
    return base64.b64encode(np.asarray(bias, dtype="<f4").tobytes()).decode("ascii")


def _is_schema_1(contract: Contract) -> bool:
    """Whether nothing in the contract is newer than schema 1."""
    return (
        contract.pooling not in ("attention", "token")
        and contract.head != "gated"
        and contract.rest == "constant"
        and contract.reference == "zero"
    )


def _validate(contract: Contract) -> None:
    """Raise ValueError with the name of the first field of an invalid value."""
    spec = contract.input
    positive = {
        "input.height": spec.height,
        "input.width": spec.width,
        "channels": contract.channels,
        "dimension": contract.dimension,
        "grid_height": contract.grid_height,
        "grid_width": contract.grid_width,
    }
    for name, value in positive.items():
        if not 1 <= value < 1 << 31:
            raise ValueError(f"{name} is {shortened(value)}, must be at least 1 and below 2^31")
    if not 0 < spec.crop_fraction <= 1:
        raise ValueError(f"input.crop_fraction is {spec.crop_fraction}, must be in (0, 1]")
    if not all(np.isfinite(spec.mean)) or not all(np.isfinite(spec.std)) or 0 in spec.std:
        raise ValueError("input.mean and input.std must be finite, and std not 0")
    if contract.pooling == "gem" and not (contract.p is not None and contract.p > 0):
        raise ValueError(f"p is {contract.p}, pooling 'gem' needs an exponent above 0")
    if contract.pooling != "gem" and (contract.p is not None or contract.eps is not None):
        raise ValueError(f"p or eps is given, but pooling is {contract.pooling!r}")
    if contract.eps is not None and not 0 < contract.eps < math.inf:
        raise ValueError(f"eps is {contract.eps}, must be a number above 0")
    if contract.pooling in ("weights", "flatten", "attention", "token") and not contract.has_parts:
        raise ValueError(f"head is 'none', pooling {contract.pooling!r} needs 'affine' or 'gated'")
    if contract.rest == "image" and contract.head != "gated":
        raise ValueError(f"rest is 'image', but head is {contract.head!r}; only 'gated' has such a rest")
    if contract.rest == "image" and contract.bias is not None:
        raise ValueError("bias is given, but rest is 'image'")
    if contract.reference != "zero" and not contract.has_parts:
        raise ValueError(f"reference is {contract.reference!r}, needs head 'affine' or 'gated'")
    if contract.head == "none":
        pooled = contract.channels * (2 if contract.pooling == "catavgmax" else 1)
        if contract.dimension != pooled:
            raise ValueError(f"dimension is {contract.dimension}, must be {pooled} without a head")
        if contract.bias is not None:
            raise ValueError("bias is given, but head is 'none'")
    if contract.bias is not None:
        try:
            size = len(base64.b64decode(contract.bias, validate=True))
        except ValueError as error:
            raise ValueError(f"bias is not base64 ({error})") from error
        if size != 4 * contract.dimension:
            raise ValueError(f"bias has {size} bytes, must have {4 * contract.dimension}")
        if not np.isfinite(cast(np.ndarray, contract.bias_vector)).all():
            raise ValueError("bias is not finite")
    for name, figures in contract.parity.items():
        _check_figures(f"parity.{printable(name)[:40]}", figures)
        required = ("share",) if name == "rest" else ("absolute", "relative")
        if not set(required) <= figures.keys():
            raise ValueError(f"parity.{printable(name)[:40]} lacks {' or '.join(required)}")
    for name, figure in contract.fidelity.items():
        if isinstance(figure, dict):
            _check_figures(f"fidelity.{printable(name)[:40]}", figure)
        else:
            _check_figures("fidelity", {name: figure})


def _check_figures(name: str, figures: object) -> None:
    """Raise ValueError unless these are numbers by name."""
    if not isinstance(figures, dict):
        raise ValueError(f"{name} is {shortened(figures)}, must be a mapping of numbers")
    for key, figure in figures.items():
        if not isinstance(figure, int | float) or isinstance(figure, bool) or abs(figure) > 1e300:
            raise ValueError(f"{name}.{printable(key)[:40]} is {shortened(figure)}, must be a number")
