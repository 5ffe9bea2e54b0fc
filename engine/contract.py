"""The contract of a simmap artifact: what an ``.onnx`` file says of itself in ``metadata_props``.

One file is all that a server needs. The graph takes ``image`` (N, height, width, 3) uint8 with
mean, std and layout folded in, and gives

- ``conv`` (N, C, H, W) float32, the last convolutional feature map, alpha;
- ``pooled`` (N, C') float32, the pooled feature, beta (absent for pooling ``flatten``);
- with ``head: affine`` also ``embedding`` (N, D) and ``parts`` (N, H, W, D), both float32, with
  ``sum over places of parts + bias = embedding``.

The contract is one JSON object under the key ``simmap.contract``, its version under
``simmap.schema``; ONNX Runtime reads both without the onnx package. ``export`` writes it, the
engine reads it and refuses, by the name of the field, what it does not know. Under ``simmap.maps`` lies, in
base64, a small ONNX graph from (``places``, ``directions``) to ``maps``: what a GPU needs to keep feature
maps to itself (see ``engine.cuda``).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from . import decompose
from .errors import ArtifactError
from .schema import from_mapping
from .types import Triple

SCHEMA = 1
SCHEMA_KEY = "simmap.schema"
CONTRACT_KEY = "simmap.contract"
MAPS_KEY = "simmap.maps"
ChannelOrder = Literal["rgb", "bgr"]
Resize = Literal["squash", "crop", "letterbox"]
Kernel = Literal["area", "linear", "cubic"]
Pooling = Literal[decompose.Pooling, "weights", "flatten"]
Head = Literal["none", "affine"]
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
            weight for each place and channel, ``flatten`` a linear layer straight on the map; both
            come with ``head: affine``, since their arithmetic lives in the graph.
        p: the exponent of pooling ``gem``, else None.
        eps: the floor to which pooling ``gem`` clips ``conv``, else None.
        head: ``none`` (the embedding is ``pooled``) or ``affine`` (outputs ``embedding``, ``parts``).
        bias: base64 of D little-endian float32, the constant b of the affine head; None without one.
        channels, dimension: C of ``conv`` and D of the embedding.
        grid_height, grid_width: H and W of ``conv`` at the default input size.
        precision: how the weights are stored; ``fp16`` is stored as float16, computed in float32;
            ``fp16-cuda`` is stored and computed as float16 up to ``conv``, in float32 from there on;
            ``int8`` is stored and computed as int8 in most convolutions, in float32 elsewhere.
        source: where the network came from: ``kind``, ``name`` and what else export recorded.
        versions: of the libraries that made the artifact.
        fingerprint: sha256 over the stored weights and the fields that change an embedding.
        parity: the figures of the export gate.
        fidelity: of ``int8``, how far it ranks and explains as float32 does on photos that it was not
            calibrated on (see ``engine.evaluate.Agreement``); empty otherwise.
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

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs that this contract promises."""
        pooled = () if self.pooling == "flatten" else ("pooled",)
        return ("conv", *pooled, *(("embedding", "parts") if self.head == "affine" else ()))

    @property
    def explained(self) -> tuple[str, str]:
        """Names of the outputs that are the embedding and what its places add to it."""
        return ("embedding", "parts") if self.head == "affine" else ("pooled", "conv")

    @property
    def bias_vector(self) -> npt.NDArray[np.float32] | None:
        """The constant b (D,) of the affine head, or None."""
        if self.bias is None:
            return None
        return np.frombuffer(base64.b64decode(self.bias), dtype="<f4").astype(np.float32)

    def to_metadata(self) -> dict[str, str]:
        """The ``metadata_props`` that carry this contract."""
        return {SCHEMA_KEY: str(SCHEMA), CONTRACT_KEY: json.dumps(asdict(self), sort_keys=True)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], *, name: str) -> "Contract":
        """Read and validate the contract of the file ``name``.

        Raises:
            ArtifactError: there is no contract, its schema is newer, or a field is missing, unknown,
                of the wrong type or of a value that this version does not know.
        """
        if SCHEMA_KEY not in metadata or CONTRACT_KEY not in metadata:
            raise ArtifactError(
                f"{name}: is ONNX but not a simmap artifact (no {SCHEMA_KEY!r} in its metadata); "
                f"make one with: simmap export --onnx {name} -o OUT.onnx"
            )
        schema = metadata[SCHEMA_KEY]
        if not schema.isdigit() or int(schema) < 1:
            raise ArtifactError(f"{name}: {SCHEMA_KEY} is {schema!r}, not a version number; export it again")
        if int(schema) > SCHEMA:
            raise ArtifactError(
                f"{name}: its contract has schema {schema}, this simmap reads up to {SCHEMA}; upgrade simmap"
            )
        try:
            data = json.loads(metadata[CONTRACT_KEY])
        except ValueError as error:
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


def _validate(contract: Contract) -> None:
    """Raise ValueError with the name of the first field whose value cannot be."""
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
        if value < 1:
            raise ValueError(f"{name} is {value}, must be at least 1")
    if not 0 < spec.crop_fraction <= 1:
        raise ValueError(f"input.crop_fraction is {spec.crop_fraction}, must be in (0, 1]")
    if not all(np.isfinite(spec.mean)) or not all(np.isfinite(spec.std)) or 0 in spec.std:
        raise ValueError("input.mean and input.std must be finite, and std not 0")
    if contract.pooling == "gem" and not (contract.p is not None and contract.p > 0):
        raise ValueError(f"p is {contract.p}, pooling 'gem' needs an exponent above 0")
    if contract.pooling in ("weights", "flatten") and contract.head != "affine":
        raise ValueError(f"head is {contract.head!r}, pooling {contract.pooling!r} needs 'affine'")
    if contract.head == "none":
        pooled = contract.channels * (2 if contract.pooling == "catavgmax" else 1)
        if contract.dimension != pooled:
            raise ValueError(f"dimension is {contract.dimension}, must be {pooled} without a head")
        if contract.bias is not None:
            raise ValueError("bias is given, but head is 'none'")
    if contract.bias is not None:
        try:
            size = len(base64.b64decode(contract.bias, validate=True))
        except binascii.Error as error:
            raise ValueError(f"bias is not base64 ({error})") from error
        if size != 4 * contract.dimension:
            raise ValueError(f"bias has {size} bytes, must have {4 * contract.dimension}")
        if not np.isfinite(cast(np.ndarray, contract.bias_vector)).all():
            raise ValueError("bias is not finite")
