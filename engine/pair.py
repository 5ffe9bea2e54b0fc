"""What a pair graph says of itself in ``metadata_props``.

A pair graph is an ``.onnx`` file that other runtimes run without simmap: two photos in, the score and both
maps out. ``simmap pair`` makes it from an artifact. Its description is one JSON object under the key
``simmap.pair``, which holds the artifact's contract: how photos are prepared, and what they go through.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from .contract import CONTRACT_KEY, PAIR_KEY, SCHEMA_KEY, Contract
from .errors import ArtifactError
from .schema import from_mapping, shortened

PAIR_SCHEMA = 1


@dataclass(frozen=True)
class PairContract:
    """All that a pair graph says of itself.

    Its outputs, float32, are ``engine.results.Pair`` in one run: ``score`` (N,); ``map_a`` and ``map_b``,
    ``influence_a`` and ``influence_b`` (N, H, W); ``residual_a`` and ``residual_b`` (N,). Where an embedding
    is zero, all of these are 0.

    Attributes:
        contract: of the artifact that it was made from.
        points: it has the output ``points`` (N, H W, H W): row x, column y is what place x of ``a`` and
            place y of ``b`` add to the score together, places in reading order.
        photo: its inputs ``a`` and ``b`` are uint8 photos (N, any height, any width, 3), which it resizes
            itself; otherwise they are (N, height, width, 3) as the contract says.
        parity: the largest absolute difference from the engine on real photos, by output.
    """

    contract: Contract
    points: bool = False
    photo: bool = False
    parity: dict[str, float] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        sides = (f"{name}_{side}" for name in ("map", "residual", "influence") for side in "ab")
        return ("score", *sides, *(("points",) if self.points else ()))

    def to_metadata(self) -> dict[str, str]:
        """The ``metadata_props`` that carry this description."""
        metadata = self.contract.to_metadata()
        data = {
            "schema": PAIR_SCHEMA,
            "points": self.points,
            "photo": self.photo,
            "parity": self.parity,
            "contract_schema": metadata[SCHEMA_KEY],
            "contract": json.loads(metadata[CONTRACT_KEY]),
        }
        return {PAIR_KEY: json.dumps(data, sort_keys=True)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], *, name: str) -> "PairContract":
        """Read and validate the description of the pair graph ``name``.

        Raises:
            ArtifactError: there is none, its schema is newer, or a field is invalid.
        """
        mend = "make it again with: simmap pair"
        try:
            data = json.loads(metadata[PAIR_KEY])
            schema = data["schema"]
            if schema != PAIR_SCHEMA:
                raise ArtifactError(
                    f"{name}: {PAIR_KEY} has schema {shortened(schema)}, this simmap reads {PAIR_SCHEMA}; "
                    "upgrade simmap"
                )
            described = cast(_Described, from_mapping(_Described, data, "pair"))
            nested = json.dumps(described.contract)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{name}: {PAIR_KEY} is not valid ({error}); {mend}") from error
        given = {SCHEMA_KEY: described.contract_schema, CONTRACT_KEY: nested}
        contract = Contract.from_metadata(given, name=name)
        return PairContract(contract, described.points, described.photo, described.parity)


@dataclass(frozen=True)
class _Described:
    """The JSON object as it is stored."""

    schema: int
    points: bool
    photo: bool
    parity: dict[str, float]
    contract_schema: str
    contract: dict[str, Any]
