"""An open artifact whose contract has been checked against its graph."""

import json
import stat
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..contract import CONTRACT_KEY, GRAPH_KEY, MAPS_KEY, OPTIONAL, OPTIONAL_KEY, Contract
from ..errors import ArtifactError, printable
from ..pair import PairContract
from ..places import SumCheck
from ..types import Array, Pixels
from .cpus import usable_cpus
from .cuda import Lanes
from .device import cuda_settings, open_on_device, parse_device
from .fingerprint import MODEL_GRAPH, fingerprint, graph_digest, read_stored
from .ort import CPU, CUDA, create_session, import_runtime, one_line, session_options
from .protobuf import message

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Session:
    """An open artifact.

    Attributes:
        inference: ONNX Runtime's session.
        contract: what the artifact says of itself, checked against the graph's own signature.
        device: the device really taken, ``cpu`` or ``cuda:N``.
        path: the artifact's file.
        sums: whether what its places add is checked in the next run.
        lanes: how CUDA runs it; None on the CPU.
    """

    inference: "onnxruntime.InferenceSession"
    contract: Contract
    device: str
    path: Path
    sums: SumCheck
    lanes: Lanes | None = None

    @cached_property
    def _input(self) -> str:
        return cast(str, self.inference.get_inputs()[0].name)

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """Names of the outputs that it gives beyond those of the contract: all of ``OPTIONAL``, or none."""
        names = {output.name for output in self.inference.get_outputs()}
        return OPTIONAL if set(OPTIONAL) <= names else ()

    @property
    def graph(self) -> str | None:
        """sha256 of the graph, which the file was checked against; None in files of older versions."""
        return _metadata(self.inference, self.path).get(GRAPH_KEY)

    @property
    def maps_stay_on_device(self) -> bool:
        """Whether ``infer_maps`` can be used: on CUDA, for an artifact with a graph of maps."""
        return self.lanes is not None and self.lanes.maps is not None

    def infer(
        self,
        images: Sequence[Pixels],
        outputs: Sequence[str],
        options: "onnxruntime.RunOptions | None" = None,
    ) -> list[Array]:
        """Run the network.

        Args:
            images: N arrays (height, width, 3) of one size.
            outputs: names of outputs; on CUDA the others are not copied from the device.
            options: of this run; setting their ``terminate`` in another thread ends it by an error.

        Returns:
            The outputs (N, ...) in their order.

        Raises:
            ArtifactError: the network failed.
        """
        try:
            if self.lanes is not None:
                return self.lanes.infer(images, outputs, options)
            feed = {self._input: np.stack(images)}
            return cast(list[Array], self.inference.run(list(outputs), feed, options))
        except Exception as error:  # ORT's exceptions share no public base class
            raise self._failure(error) from error

    def infer_maps(
        self, images: Sequence[Pixels], directions: Array, options: "onnxruntime.RunOptions | None" = None
    ) -> tuple[Array, Array]:
        """Embeddings (N, D) and ``parts . directions`` (N, H, W), while the feature map stays on the device.

        Only where ``maps_stay_on_device``.

        Args:
            images: N arrays (height, width, 3) of one size.
            directions: (N, D).
            options: as for ``infer``.

        Raises:
            ArtifactError: the network failed.
        """
        assert self.lanes is not None
        try:
            return self.lanes.infer_maps(images, *self.contract.explained, directions, options)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ArtifactError:
        return ArtifactError(f"{printable(str(self.path))}: the network failed: {one_line(error)}")


def open_session(
    path: str | Path,
    *,
    device: str = "auto",
    threads: int = 0,
    tf32: bool = False,
    cache: bool = False,
    optional: bool = False,
) -> Session:
    """Open an artifact on a device, and check its contract, its weights and its graph.

    Args:
        path: the ``.onnx`` file.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it is available, else the CPU.
        threads: of one run on the CPU; 0 takes every CPU that this process may use.
        tf32: let CUDA round float32 products to TF32: faster, and maps differ in the third digit.
        cache: on the CPU, keep the optimised graph for the next time, and use it where it is kept. A file
            whose graph is kept was checked when it was made, and is not read again.
        optional: also with the outputs that an ordinary run leaves out, where the artifact has them
            (``Session.optional``); ``cache`` is then left out.

    Raises:
        DeviceError: the device is unavailable; the message says what is missing.
        ArtifactError: the file is missing, not ONNX or not an artifact, its contract does not fit its
            graph, its weights do not match its fingerprint, or its graph not the digest of the graph.
    """
    path = Path(path)
    kind, index = parse_device(device)
    _check_file(path)
    options = session_options(threads or usable_cpus())
    create = partial(_create_whole if optional else _create_checked, path, options)
    cache = cache and not optional
    inference, taken = open_on_device(path, options, create, kind=kind, index=index, tf32=tf32, cache=cache)
    contract = read_contract(inference, path)
    on_cpu = taken == "cpu"
    sums = SumCheck(contract, path, once=not on_cpu, tf32=tf32 and not on_cpu)
    if on_cpu:
        return Session(inference, contract, taken, path, sums)
    graph = _metadata(inference, path).get(MAPS_KEY)
    maps = None if graph is None else _open_maps(path, options, cuda_settings(index, tf32), graph)
    return Session(inference, contract, taken, path, sums, Lanes(inference, maps, "cuda", index))


def read_pair(path: str | Path) -> PairContract:
    """What a pair graph says of itself.

    Raises:
        ArtifactError: the file is missing, not ONNX or not a pair graph.
    """
    path = Path(path)
    _check_file(path)
    inference = create_session(path, session_options(1, optimise=False), [CPU])
    return PairContract.from_metadata(_metadata(inference, path), name=printable(str(path)))


def _check_file(path: Path) -> None:
    """Only a regular file is opened: reading a pipe would wait for ever."""
    name = printable(str(path))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{name}: no such model file") from error
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ArtifactError(f"{name}: cannot be read: {reason}") from error
    if stat.S_ISDIR(mode):
        raise ArtifactError(f"{name}: is a folder; give the .onnx file in it")
    if not stat.S_ISREG(mode):
        raise ArtifactError(f"{name}: is not a regular file; give an .onnx file")


def _create_checked(path: Path, options: Any, providers: list[Any]) -> Any:
    """An ``InferenceSession`` of a file whose contract, weights and graph have been checked."""
    name = printable(str(path))
    stored = graph = None
    try:
        # Before the session, so that its memory is free again when the graph is loaded.
        content = path.read_bytes()
        stored, graph = read_stored(content), graph_digest(content)
        del content
    except OSError as error:
        raise ArtifactError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError:
        pass  # ONNX Runtime says why, if it does not read it either
    inference = create_session(path, options, providers)
    expected = read_contract(inference, path).fingerprint
    metadata = _metadata(inference, path)
    contract = json.loads(metadata[CONTRACT_KEY])
    if stored is None or fingerprint(stored, contract) != expected:
        raise ArtifactError(
            f"{name}: its weights do not match its fingerprint; the file is damaged, copy or export it again"
        )
    if metadata.get(GRAPH_KEY, graph) != graph:
        raise ArtifactError(
            f"{name}: its graph does not match {GRAPH_KEY} in its metadata; the file is damaged or was "
            "edited, copy or export it again"
        )
    return inference


def _create_whole(path: Path, options: Any, providers: list[Any]) -> Any:
    """As ``_create_checked``, with the piece of graph that the metadata keeps appended to the file's own."""
    inference = _create_checked(path, options, providers)
    encoded = _metadata(inference, path).get(OPTIONAL_KEY)
    if encoded is None:
        return inference
    try:
        piece = b64decode(encoded, validate=True)
        # Protobuf's readers merge two messages of one field: nodes, weights and outputs are appended.
        whole = create_session(path.read_bytes() + message(MODEL_GRAPH, piece), options, providers)
        if not set(OPTIONAL) <= {output.name for output in whole.get_outputs()}:
            raise ValueError(f"it does not give {' and '.join(OPTIONAL)}")
        return whole
    except (ArtifactError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{printable(str(path))}: its {OPTIONAL_KEY} is no piece of its graph ({one_line(error)}); "
            "export it again"
        ) from error


def run_options() -> "onnxruntime.RunOptions":
    """Options of runs that may have to end early, for ``Session.infer``."""
    return cast("onnxruntime.RunOptions", import_runtime().RunOptions())


def _open_maps(path: Path, options: Any, settings: dict[str, str], graph: str) -> Any:
    """The artifact's graph of maps on the same device."""
    try:
        return create_session(b64decode(graph, validate=True), options, [(CUDA, settings), CPU])
    except (ArtifactError, ValueError) as error:
        raise ArtifactError(
            f"{printable(str(path))}: its {MAPS_KEY} is no graph ({one_line(error)}); export it again"
        ) from error


def _metadata(inference: Any, path: Path) -> Mapping[str, str]:
    try:
        return cast(Mapping[str, str], inference.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{printable(str(path))}: its metadata is not UTF-8; the file is damaged, copy or export it again"
        ) from error


def read_contract(inference: Any, path: Path) -> Contract:
    """The contract of an open graph, checked against the graph's own inputs and outputs.

    Raises:
        ArtifactError: there is none, it is invalid, or it does not fit.
    """
    contract = Contract.from_metadata(_metadata(inference, path), name=printable(str(path)))
    try:
        _check_signature(inference, contract, path)
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{printable(str(path))}: the names of its inputs or outputs are not UTF-8; export it again"
        ) from error
    return contract


def _check_signature(inference: Any, contract: Contract, path: Path) -> None:
    """Hold the contract against the graph's own inputs and outputs."""
    inputs = inference.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
        raise ArtifactError(
            f"{printable(str(path))}: its input must be one uint8 tensor (N, height, width, 3), is "
            f"{', '.join(f'{printable(i.name)} {i.type} {i.shape}' for i in inputs)}; export it again"
        )
    spec = contract.input
    size: tuple[int | None, ...] = (None, None) if spec.dynamic else (spec.height, spec.width)
    cells = (None, None) if spec.dynamic else (contract.grid_height, contract.grid_width)
    _check_shape(path, "input", inputs[0].shape, (None, *size, 3))
    expected: dict[str, tuple[int | None, ...]] = {
        "conv": (None, contract.channels, *cells),
        "pooled": (None, None),
        "embedding": (None, contract.dimension),
        "parts": (None, *cells, contract.dimension),
    }
    if not contract.has_parts:
        expected["pooled"] = (None, contract.dimension)
    outputs = {output.name: output for output in inference.get_outputs()}
    expected |= {"tokens": expected["parts"], "last_attention": expected["parts"][:3]}
    for name in (*contract.outputs, *(name for name in OPTIONAL if name in outputs)):
        if name not in outputs:
            raise ArtifactError(
                f"{printable(str(path))}: lacks the output {name!r} that its contract names; export it again"
            )
        if outputs[name].type != "tensor(float)":
            raise ArtifactError(
                f"{printable(str(path))}: its output {name!r} is {outputs[name].type}, must be float32"
            )
        _check_shape(path, f"output {name!r}", outputs[name].shape, expected[name])


def _check_shape(path: Path, what: str, actual: list[Any], expected: tuple[int | None, ...]) -> None:
    """Compare where both sides are numbers; a symbolic axis may be anything."""
    fits = len(actual) == len(expected) and all(
        not (isinstance(a, int) and e is not None) or a == e for a, e in zip(actual, expected, strict=True)
    )
    if not fits:
        promised = tuple("any" if e is None else e for e in expected)
        raise ArtifactError(
            f"{printable(str(path))}: its {what} has shape {tuple(actual)}, but its contract says "
            f"{promised}; export it again"
        )
