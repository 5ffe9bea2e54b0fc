"""What every command has: its help with an example, ``--json`` and ``--debug``."""

from collections.abc import Callable
from typing import Any

import click


def command(name: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function the command ``name``; the function's docstring is its help.

    The function gets ``as_json``; the rest of its parameters are those of its options.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout."),
            # Read by simmap.cli, which reports errors.
            click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
        ):
            function = option(function)
        return click.command(name, epilog=f"\b\nexample: {example}")(function)

    return decorate


def output_options(
    what: str, *, default: str | None = None, required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``-o`` and ``--force``, as the parameters ``output`` and ``force``."""
    from .parameters import FILE

    # click takes an explicit default of None for a value, which no option then lacks.
    presence: dict[str, Any] = {"required": required} if default is None else {"default": default}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option("--force", is_flag=True, help="Overwrite outputs that exist.")(function)
        return click.option("-o", "--output", type=FILE, help=what, **presence)(function)

    return decorate
