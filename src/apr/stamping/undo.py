"""Taking a stamp back: every value as the history says it was, and the history goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apr.errors import RefusedError, UsageError
from apr.formats.base import Checkpoint
from apr.formats.json_text import is_same, with_tagged_floats
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
    made = entry["changes"]
    if not isinstance(made, list) or not all(isinstance(each, dict) for each in made):
        raise _refused(checkpoint, "the newest stamp cannot be read", "a list of changes", f"{made!r:.80}", None)
    changes = [_taken_back(checkpoint, places, each) for each in reversed(made)]
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
        raise _not_in_history(checkpoint, key) if key == TOKENIZER_KEY else _elsewhere(checkpoint, key, change)
    values, name = places[place], key.removeprefix(f"{place}: ")
    current = _read(values.get(name, _ABSENT))
    made = _ABSENT if change.get("is_removed") else change.get("new")
    # The history is JSON: a number that JSON has no form for stands in it in the tagged one.
    if current is not made and not is_same(with_tagged_floats(current), with_tagged_floats(made)):
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


def _read(value: Any) -> Any:
    """`value`; where it is a long array that is still in its file, its elements."""
    is_in_file = isinstance(value, Sequence) and not isinstance(value, (str, bytes, list, tuple))
    return list(value) if is_in_file else value


def _not_in_history(checkpoint: Checkpoint, key: str) -> RefusedError:
    return _refused(
        checkpoint,
        f"{key} cannot be restored: the earlier tokenizer files are not in the history",
        "a value in the history",
        key,
        "stamp again with --tokenizer DIR of the earlier files",
    )


def _elsewhere(checkpoint: Checkpoint, key: str, change: Mapping[str, Any]) -> RefusedError:
    """The stamp was made before the checkpoint was imported, exported or saved anew, and names places of then."""
    previous = "no value" if change.get("was_absent") else f"{change.get('previous')!r:.200}"
    return _refused(
        checkpoint,
        f"{key} cannot be restored: this checkpoint has no such place, as the stamp was made before it was converted",
        "a place that this checkpoint has",
        f"{key}, which was {previous} before",
        "stamp the earlier value under the name it has here; or undo in the checkpoint this one was made from, and "
        "convert that again",
    )


def _refused(checkpoint: Checkpoint, what: str, expected: str, found: str, remedy: str | None) -> RefusedError:
    return RefusedError(
        what, where=str(checkpoint.path), expected=expected, found=found, remedy=remedy, invariant=HISTORY_ID
    )
