"""Checkpoints: read without running code, and fitted to a network."""

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simmap.engine.errors import ExportError

from .finder import leaves_of
from .messages import first_few, first_line, quiet, shape_text

# Where training checkpoints keep the state dict, in the order of preference.
_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "backbone", "encoder"),
    *("weights", "params", "module", "student", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
)


def load_checkpoint(
    network: nn.Module,
    weights: Path | None,
    title: str,
    pooled: nn.Module | None = None,
    example: torch.Tensor | None = None,
) -> tuple[str, ...]:
    """Load the checkpoint ``weights`` into ``network`` and give the notes about it.

    With ``pooled``, keys of the modules that its (first) output on ``example`` does not need (the
    classifier, auxiliary heads) may be missing, be unexpected or have other shapes.
    """
    if weights is None:
        return ("random weights: for tests only",)
    free = _unused(network, pooled, example, title) if pooled is not None and example is not None else ()
    state, notes = _read(weights)
    target = network.state_dict()
    state, stripped = _strip_prefix(state, target, weights, drop_others=pooled is not None)
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


def _unused(network: nn.Module, pooled: nn.Module, example: torch.Tensor, title: str) -> tuple[str, ...]:
    """Prefixes (``fc.``) of the modules that have parameters, none of which reaches the pooled feature."""
    try:
        with torch.enable_grad():
            output = pooled.eval()(example)
            leaves = leaves_of(output[0] if isinstance(output, tuple) else output)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{title}: its forward pass fails ({first_line(error)})") from error
    found = []
    for path, module in network.named_modules():
        parameters = list(module.parameters())
        if path and parameters and not any(id(parameter) in leaves for parameter in parameters):
            found.append(f"{path}.")
    return tuple(found)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state dict in the file ``path``; code in it never runs."""
    if not path.is_file():
        raise ExportError(
            f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}, not a checkpoint"
        )
    if path.stat().st_size == 0:
        raise ExportError(f"{path}: is empty, not a checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with quiet():
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
    except Exception as error:  # each format has its own
        text = str(error)
        refused = isinstance(error, pickle.UnpicklingError)
        code = "global" in text.lower() or _is_plain_pickle(path)
        if (refused and code) or "TorchScript archive" in text:
            raise ExportError(f"{path}: holds pickled code and is not loaded; save a state_dict") from error
        # PyTorch's own words are advice to load without this protection.
        detail = "" if isinstance(error, pickle.UnpicklingError) else f" ({first_line(error)})"
        raise ExportError(f"{path}: is truncated or not a checkpoint{detail}") from error
    notes: list[str] = []
    while not _is_state(content):
        entries = [
            e for e in _ENTRIES if isinstance(content, Mapping) and isinstance(content.get(e), Mapping)
        ]
        if not entries:
            held = (
                first_few([str(key) for key in content])
                if isinstance(content, Mapping)
                else type(content).__name__
            )
            raise ExportError(f"{path}: holds no state dict (found {held or 'nothing'})")
        others = f" (it has {', '.join(map(repr, entries[1:]))} too)" if entries[1:] else ""
        notes.append(f"took the entry {entries[0]!r} of the checkpoint{others}")
        content = content[entries[0]]
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}, notes


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
