"""What a stamp leaves behind in the file: every previous value, with time, tool and reason (INV-STAMP-HISTORY-001)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apr import __version__
from apr.formats.json_text import is_same
from apr.formats.recorded import Recorded


class Change(NamedTuple):
    """One value that a stamp replaces. key: where it stands, as `metadata: architecture` or `hf_config: model_type`.

    was_absent: the key did not stand there before (`previous` is None then). is_removed: the key is taken out.
    """

    key: str
    previous: Any
    new: Any
    was_absent: bool = False
    is_removed: bool = False

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"key": self.key, "previous": self.previous, "new": self.new}
        if self.was_absent:
            document["was_absent"] = True
        if self.is_removed:
            document["is_removed"] = True
        return document


def change_of(place: str, before: Mapping[str, Any], key: str, new: Any) -> Change | None:
    """The change that setting `key` of `before` to `new` is; None when it stands there already."""
    if key in before and is_same(before[key], new):
        return None
    return Change(f"{place}: {key}", before.get(key), new, was_absent=key not in before)


def history_entry(
    action: str,
    changes: Sequence[Change],
    *,
    reason: str | None = None,
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One entry of `Recorded.history`. overrides: invariant id to the reason given for going past it.

    No user name and no path is recorded: a checkpoint is published with its history.
    """
    return {
        "action": action,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "tool": f"apr {__version__}",
        "reason": reason,
        "overrides": dict(overrides or {}),
        "changes": [change.to_json() for change in changes],
    }


def with_entry(recorded: Recorded, entry: Mapping[str, Any]) -> Recorded:
    """`recorded` with `entry` as the newest of its history; everything else as it was."""
    return recorded._replace(history=(*recorded.history, entry))
