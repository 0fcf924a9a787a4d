"""What the demo claims, each claim computed from what was measured; the first that does not hold ends the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apr.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Expectation:
    """One claim: what should be, what was found, and whether that is so."""

    claim: str
    expected: str
    found: str
    holds: bool

    def to_json(self) -> dict[str, Any]:
        return {"claim": self.claim, "expected": self.expected, "found": self.found, "holds": self.holds}


class ExpectationFailedError(RefusedError):
    """A claim of the demo does not hold on this machine."""


@dataclass
class Expectations:
    """The claims made so far, in order."""

    made: list[Expectation] = field(default_factory=list)

    def expect(self, claim: str, holds: bool, *, expected: object, found: object) -> None:
        """Record a claim; ExpectationFailedError when it does not hold."""
        self.made.append(Expectation(claim, str(expected), str(found), holds))
        if not holds:
            raise ExpectationFailedError(
                f"the demo's claim does not hold: {claim}",
                expected=str(expected),
                found=str(found),
                remedy="report this with the summary.json of the demo: it should hold on every machine",
            )

    def expect_equal(self, claim: str, expected: object, found: object) -> None:
        """Record the claim that `found` equals `expected`."""
        self.expect(claim, found == expected, expected=expected, found=found)
