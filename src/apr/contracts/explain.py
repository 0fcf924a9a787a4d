"""An id in words: what it holds, why, what a refusal means, what to do, and what its tests last did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr.contracts.bindings import Binding
from apr.contracts.load import clause_index
from apr.contracts.status import ClauseStatus
from apr.errors import NotFoundError

if TYPE_CHECKING:
    from apr.contracts.model import Clause, Contract


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything known of one clause. asked: the id the user gave (the clause's own or one of its falsifiers).

    status: from the last recorded run. tests: node ids bound to it in this checkout, with the marker.
    """

    asked: str
    contract: Contract
    clause: Clause
    status: ClauseStatus
    tests: tuple[Binding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "contract": self.contract.contract,
            "contract_version": self.contract.version,
            "clause": self.clause.model_dump(mode="json"),
            "references": list(self.contract.references),
            "status": self.status.to_json(),
            "tests": [{"test": each.test, "marker": each.marker.value, "id": each.id} for each in self.tests],
        }


def explain(
    identifier: str, contracts: tuple[Contract, ...], status: tuple[ClauseStatus, ...], bindings: tuple[Binding, ...]
) -> Explanation:
    """The clause that `identifier` names, in any case of letters; NotFoundError suggests the nearest ids."""
    index = clause_index(contracts)
    asked = identifier.strip().upper()
    if asked not in index:
        raise unknown_id(identifier, contracts)
    contract, clause = index[asked]
    return Explanation(
        asked=asked,
        contract=contract,
        clause=clause,
        status=next(each for each in status if each.id == clause.id),
        tests=tuple(each for each in bindings if each.id in clause.ids),
    )


def unknown_id(identifier: str, contracts: tuple[Contract, ...]) -> NotFoundError:
    """The error for an id that no contract defines, with the nearest ones, or why upstream's id was left out."""
    asked = identifier.strip().upper()
    left_out = {each.id: each for contract in contracts for each in contract.not_adopted}
    known = sorted(clause_index(contracts), key=lambda each: each.startswith("FALSIFY-"))
    nearest = suggestions(asked, tuple(known))
    return NotFoundError(
        f"no contract defines {identifier!r}",
        found=f"left out on purpose: {left_out[asked].reason}" if asked in left_out else None,
        expected="one of " + ", ".join(nearest) if nearest else None,
        remedy=f"apr explain {nearest[0]}" if nearest else "apr contract list",
        facts={"suggestions": list(nearest)},
    )


def suggestions(asked: str, known: tuple[str, ...], limit: int = 5) -> tuple[str, ...]:
    """The ids nearest to `asked`: those that contain all its parts first, then by similarity of spelling."""
    import difflib

    parts = [part for part in asked.replace("_", "-").replace(" ", "-").split("-") if part]
    containing = [each for each in known if parts and all(part in each for part in parts)]
    similar = difflib.get_close_matches(asked, known, n=limit, cutoff=0.55)
    return tuple(dict.fromkeys([*containing, *similar]))[:limit]
