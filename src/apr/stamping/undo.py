"""Taking a stamp back: every value as the history says it was, and the history goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apr.errors import RefusedError, UsageError
from apr.formats.base import Checkpoint
from apr.gates.finding import Finding, Status
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from apr.stamping.changes import StampChanges
from apr.stamping.edit import Edit, Editor
from apr.stamping.history import Change

HISTORY_ID = "INV-STAMP-HISTORY-001"
TRUTH_ID = "INV-STAMP-TRUTH-001"
TOKENIZER_KEY = "tokenizer"
_ABSENT = object()


def check_undo(changes: StampChanges, *, auto: bool) -> None:
    """Raise UsageError when an undo is asked for together with stamps."""
    if auto or not changes.is_empty:
        raise UsageError(
            "--undo takes a stamp back and sets nothing",
            expected="--undo without any stamp",
            found="stamps beside it",
            remedy="undo first, then stamp",
        )


def undo_edit(editor: Editor, checkpoint: Checkpoint) -> tuple[Edit, Mapping[str, Any]]:
    """The edit that takes back the newest stamp not taken back yet, and the history entry of that stamp.

    Raises RefusedError (INV-STAMP-HISTORY-001) when there is none, when a value is no longer what that stamp made it,
    and for an embedded tokenizer, whose earlier files the history does not hold.
    """
    entry = newest_stamp(editor.history(checkpoint))
    if entry is None:
        raise _refused(checkpoint, "no stamp is left to take back", "a stamp in the history", "none", None)
    places = editor.places(checkpoint)
    changes = [_taken_back(checkpoint, places, each) for each in reversed(entry.get("changes") or ())]
    return Edit(checkpoint, editor.restored(checkpoint, places), tuple(changes)), entry


def newest_stamp(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest stamp in `history` that no later undo took back."""
    taken_back = 0
    for entry in reversed(history):
        if entry.get("action") == "undo":
            taken_back += 1
        elif entry.get("action") == "stamp" and entry.get("changes"):
            taken_back -= 1
            if taken_back < 0:
                return dict(entry)
    return None


def undo_finding(edit: Edit, undone: Mapping[str, Any]) -> Finding:
    """What is true of the restored stamps; a lie that stood there before is restored, and said."""
    verdict = give_verdict(edit.after)
    when = undone.get("time")
    if verdict.kind is VerdictKind.CONTRADICTION:
        message = f"restored as before {when}, and untrue: " + "; ".join(verdict.reasons[:1])
        return Finding(TRUTH_ID, Status.UNCHECKED, message)
    return Finding(HISTORY_ID, Status.PASS, f"{len(edit.changes)} values restored as they were before {when}")


def _taken_back(checkpoint: Checkpoint, places: dict[str, dict[str, Any]], change: Mapping[str, Any]) -> Change:
    """Carry out the reverse of `change` in `places`, and give it as a change of its own."""
    key = str(change.get("key"))
    place = next((place for place in sorted(places, key=len, reverse=True) if key.startswith(f"{place}: ")), None)
    if place is None:
        what = "the earlier tokenizer files are not in the history" if key == TOKENIZER_KEY else "an unknown place"
        remedy = "stamp again with --tokenizer DIR of the earlier files" if key == TOKENIZER_KEY else None
        raise _refused(checkpoint, f"{key} cannot be restored: {what}", "a value in the history", key, remedy)
    values, name = places[place], key.removeprefix(f"{place}: ")
    current = values.get(name, _ABSENT)
    made = _ABSENT if change.get("is_removed") else change.get("new")
    if current is not made and current != made:
        shown = "nothing" if current is _ABSENT else repr(current)
        raise _refused(
            checkpoint, f"{key} was changed since by something else", repr(change.get("new")), shown, "stamp it instead"
        )
    was_absent = bool(change.get("was_absent"))
    if was_absent:
        values.pop(name, None)
    else:
        values[name] = change.get("previous")
    return Change(
        key,
        None if current is _ABSENT else current,
        change.get("previous"),
        was_absent=current is _ABSENT,
        is_removed=was_absent,
    )


def _refused(checkpoint: Checkpoint, what: str, expected: str, found: str, remedy: str | None) -> RefusedError:
    return RefusedError(
        what, where=str(checkpoint.path), expected=expected, found=found, remedy=remedy, invariant=HISTORY_ID
    )
