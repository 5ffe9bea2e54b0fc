"""A network of the user's own: ``package.module:factory``, whose code runs."""

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from simmap.engine.errors import ExportError

from .checkpoints import check_finite
from .messages import first_line, suggest


def call_factory(name: str) -> nn.Module:
    """Import the module and call the factory: **this runs code**, so never for a name that is not trusted.

    Modules of the working folder are found as well.

    Returns:
        The network in eval mode, on the CPU, float32, without gradients.

    Raises:
        ExportError: it cannot be imported, has no such factory, fails, or gives no network.
    """
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise ExportError(f"module is {name!r}, must be package.module:factory")
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        factory = _factory(module_name, factory_name)
        try:
            network = factory()
        except Exception as error:
            raise ExportError(f"{name} failed ({type(error).__name__}: {first_line(error)})") from error
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
    if not isinstance(network, nn.Module):
        raise ExportError(f"{name} gave {type(network).__name__}, not a torch.nn.Module")
    network = network.cpu().float().eval().requires_grad_(False)
    check_finite(network.state_dict(), name)
    return network


def _factory(module_name: str, factory_name: str) -> Any:
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:  # a module can raise anything when it is imported
        raise ExportError(
            f"module {module_name!r} cannot be imported ({type(error).__name__}: {first_line(error)})"
        ) from error
    for part in factory_name.split("."):
        if not hasattr(target, part):
            raise ExportError(f"module {module_name!r} has no {factory_name!r}{suggest(part, dir(target))}")
        target = getattr(target, part)
    if not callable(target):
        kind = type(target).__name__
        raise ExportError(f"{module_name}:{factory_name} is {kind}, not a function that builds a network")
    return target
