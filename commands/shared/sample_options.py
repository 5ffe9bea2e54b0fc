"""Which pairs of a folder are looked at."""

from collections.abc import Callable
from typing import Any

import click

from .parameters import COUNT, SEED


def sample_options(pairs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--pairs`` and ``--seed``; ``pairs`` by default."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(
            "--seed", type=SEED, metavar="NUMBER", default=0, help="Seed of the sample (default: 0)."
        )(function)
        return click.option(
            "--pairs", type=COUNT, metavar="COUNT", default=pairs, help=f"Pairs to sample (default: {pairs})."
        )(function)

    return decorate
