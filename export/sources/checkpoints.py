"""Checkpoints: read without running code, and fitted to a network."""

import os
import pickle
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from simmap.engine.errors import ExportError, printable

from .messages import first_few, first_line, quiet, shape_text

# Where training checkpoints keep the state dict, in the order of preference.
_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "backbone", "encoder"),
    *("weights", "params", "module", "student", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
)


# PyTorch stores its archives as they are; more than so many times the file's size is no checkpoint.
MOST_EXPANSION = 10


def load_checkpoint(
    network: nn.Module, weights: Path | None, title: str, heads: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Load the checkpoint ``weights`` into ``network`` and give the notes about it.

    With ``heads``, modules that only class scores need, their keys may be missing, be unexpected or have
    other shapes, and tensors outside the network are left alone.

    Raises:
        ExportError: it cannot be read, or does not fit.
    """
    if weights is None:
        return ("random weights: for tests only",)
    free = tuple(f"{head}." for head in heads or ())
    state, notes = _read(weights)
    target = network.state_dict()
    state, stripped = _strip_prefix(state, target, weights, drop_others=heads is not None)
    notes += stripped
    if not set(state) & set(target):
        ordered = _in_order(state, target)
        if ordered is not None:
            state = ordered
            notes.append(
                "loaded in order: no key of the checkpoint matched, and every tensor's shape and kind did"
            )

    def needed(key: str) -> bool:
        return not key.startswith(free) and not key.endswith("num_batches_tracked")

    missing = [key for key in target if key not in state and needed(key)]
    unexpected = [key for key in state if key not in target and needed(key)]
    shared = [key for key in target if key in state]
    unfit = [key for key in shared if state[key].shape != target[key].shape]
    wrong = [key for key in unfit if needed(key)]
    problems = []
    for label, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            problems.append(f"{len(keys)} {label} ({first_few(keys)})")
    if wrong:
        shapes = [f"{k} {shape_text(state[k])} for {shape_text(target[k])}" for k in wrong]
        problems.append(f"{len(wrong)} of other shapes ({first_few(shapes)})")
    if problems:
        raise ExportError(f"{weights}: does not fit {title}: {', '.join(problems)}")
    fitting = {key: state[key] for key in shared if key not in unfit}
    check_finite(fitting, str(weights))
    ignored = len(unfit) + sum(key not in target for key in state)
    if ignored:
        notes.append(f"ignored {ignored} tensors of the checkpoint that only the classifier needs")
    network.load_state_dict(fitting, strict=False)
    return tuple(notes)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state dict in the file ``path``, and how it was found; code in it never runs."""
    content: Any = _content(path)
    notes: list[str] = []
    opened: set[int] = set()
    while not _is_state(content):
        entries = [
            e for e in _ENTRIES if isinstance(content, Mapping) and isinstance(content.get(e), Mapping)
        ]
        if not entries or id(content) in opened:
            names = [printable(str(key)) for key in content] if isinstance(content, Mapping) else []
            kind = type(content).__name__
            reason = "a mapping that holds itself" if entries else first_few(names) or f"an empty {kind}"
            raise ExportError(f"{path}: holds no state dict (found {reason})")
        opened.add(id(content))
        others = f" (it has {', '.join(map(repr, entries[1:]))} too)" if entries[1:] else ""
        notes.append(f"took the entry {entries[0]!r} of the checkpoint{others}")
        content = content[entries[0]]
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}, notes


def _content(path: Path) -> object:
    """What a checkpoint holds, as ``torch.load`` or safetensors gives it."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        kind = "is a folder" if os.path.isdir(path) else "there is no such file"  # noqa: PTH112
        raise ExportError(f"{path}: {kind}, not a checkpoint")
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if not head:
            raise ExportError(f"{path}: is empty, not a checkpoint")
        if path.suffix == ".safetensors":
            return load_file(path)
        if head == b"PK\x03\x04":
            _check_archive(path)
        with quiet():
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
    except ExportError:
        raise
    except Exception as error:  # each format has its own
        text = str(error)
        refused = isinstance(error, pickle.UnpicklingError)
        code = "global" in text.lower() or _is_plain_pickle(path)
        if (refused and code) or "TorchScript archive" in text:
            raise ExportError(f"{path}: holds pickled code and is not loaded; save a state_dict") from error
        # PyTorch's own words are advice to load without this protection.
        detail = "" if refused else f" ({first_line(error)})"
        raise ExportError(f"{path}: is truncated or not a checkpoint{detail}") from error


def _check_archive(path: Path) -> None:
    """Hold a zip archive, which a checkpoint of PyTorch is, against its own sizes and checksums.

    Raises:
        ExportError: it would unpack to far more than the file, or an entry is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_EXPANSION * path.stat().st_size:
            raise ExportError(
                f"{path}: would unpack to {unpacked / 1e6:,.0f} MB, more than {MOST_EXPANSION} times its "
                "size, so it is no checkpoint; PyTorch does not compress"
            )
        try:
            damaged = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ExportError(f"{path}: is damaged ({first_line(error)}); copy it again") from error
    if damaged is not None:
        raise ExportError(f"{path}: is damaged (the checksum of {printable(damaged)} differs); copy it again")


def _is_plain_pickle(path: Path) -> bool:
    """Whether Python's pickle wrote the file: its protocols are 3 and later, PyTorch's own is 2."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] in (b"\x03", b"\x04", b"\x05")


def _is_state(content: object) -> bool:
    """Whether ``content`` is a state dict: tensors by name, none of them deeper down.

    Entries of training checkpoints stand beside counters, rates and even single tensors: a mapping
    among the values tells these from the state dict itself.
    """
    return (
        isinstance(content, Mapping)
        and any(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
        and not any(key in _ENTRIES and isinstance(value, Mapping) for key, value in content.items())
    )


def _strip_prefix(
    state: dict[str, torch.Tensor], target: Mapping[str, object], path: Path, *, drop_others: bool
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Take off the prefix (``module.``, ``model.backbone.``) behind which most keys of ``target`` lie.

    With ``drop_others`` keys that lie elsewhere are dropped: beside the backbone of a classifier these
    are heads of the training. Without, they stay, and do not fit.
    """
    fits: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in target:
                fits[".".join(parts[:start]) + "." if start else ""] += 1
    if not fits:
        return state, []
    best = max(fits.values())
    prefixes = [prefix for prefix, count in fits.items() if count == best]
    prefix = min(prefixes, key=len)
    if len(prefixes) > 1 and prefix and best > len(target) // 2:
        raise ExportError(
            f"{path}: holds the network more than once, under {first_few(prefixes)}; save one of them"
        )
    if not prefix:
        return state, []
    notes = [f"stripped the prefix {prefix!r} from the keys of the checkpoint"]
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = {key: value for key, value in state.items() if not key.startswith(prefix)}
    if not outside:
        return inside, notes
    if not drop_others:
        return {**inside, **outside}, notes
    return inside, [
        *notes,
        f"ignored {len(outside)} tensors of the checkpoint outside it ({first_few(list(outside))})",
    ]


def _in_order(
    state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """``state`` under the keys of ``target``, in order; None unless every shape and kind is the same.

    Some checkpoints name the modules of the same architecture otherwise. The last part of a key
    (``weight``, ``running_var``) must agree as well, or two vectors of one layer could change places.
    Counters of batches are left out: not every file has them, and eval mode does not need them.
    """

    def entries(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        return [(k, v) for k, v in tensors.items() if not k.endswith("num_batches_tracked")]

    given, wanted = entries(state), entries(target)
    if len(given) != len(wanted):
        return None
    for (key, value), (name, tensor) in zip(given, wanted, strict=True):
        if value.shape != tensor.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            return None
    return {name: value for (name, _), (_, value) in zip(wanted, given, strict=True)}


def check_finite(state: Mapping[str, torch.Tensor], title: str) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ExportError(f"{title}: the weights {key!r} hold NaN or infinity")
