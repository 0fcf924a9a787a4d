"""What a gate says: one finding per fact, with the public id, both sides and the way out."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class Status(StrEnum):
    PASS = "pass"
    REFUSE = "refuse"
    UNCHECKED = "unchecked"


class Finding(NamedTuple):
    """One statement of one gate. UNCHECKED always says why in `message`. remedy: the exact next command."""

    id: str
    status: Status
    message: str
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": self.status.value,
            "message": self.message,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }
