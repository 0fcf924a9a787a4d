"""Record what a stamp does to the disk, and make the disk of every instant at which it could have been cut off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from apr.storage import operations
from apr.storage.journal import decode_journal, encode_journal, new_beside
from apr.storage.unchanged import file_id_at

RECORDED = (
    "create",
    "write",
    "insert_range",
    "collapse_range",
    "copy_range",
    "resize",
    "sync",
    "sync_directory",
    "rename",
    "exchange",
    "remove",
)
NAMES = ("create", "rename", "exchange", "remove")
"""Operations on names: made durable by a sync of the directory."""


class Step(NamedTuple):
    """One operation; paths are relative to the watched directory, so that it can be done again elsewhere."""

    operation: str
    path: str
    arguments: tuple[Any, ...]

    @property
    def is_sync(self) -> bool:
        return self.operation in ("sync", "sync_directory")


@contextmanager
def recorded(directory: Path) -> Iterator[list[Step]]:
    """The steps of everything done below `directory` within the block."""
    steps: list[Step] = []
    root = os.path.realpath(directory)

    def relative(target: int | Path) -> str:
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(target)
        return os.path.relpath(path, root)

    def watch(name: str) -> Any:
        original = getattr(operations, name)

        def call(target: Any, *arguments: Any) -> Any:
            path = relative(target)
            kept = tuple(arguments)
            if name in ("rename", "exchange"):
                kept = (relative(arguments[0]),)
            elif name == "copy_range":
                path, kept = relative(arguments[0]), (path, *arguments[1:])
            answer = original(target, *arguments)
            steps.append(Step(name, path, kept))
            return answer

        return mock.patch.object(operations, name, call)

    patches = [watch(name) for name in RECORDED]
    for patch in patches:
        patch.start()
    try:
        yield steps
    finally:
        for patch in patches:
            patch.stop()


def replay(steps: Sequence[Step], directory: Path) -> None:
    """Do `steps` again in `directory`; a journal is then about the files there, which are others (`FileId`)."""
    for operation, path, arguments in steps:
        target = directory / path
        if operation == "create":
            os.close(operations.create(target, *arguments))
        elif operation in ("rename", "exchange"):
            getattr(operations, operation)(target, directory / arguments[0])
        elif operation == "copy_range":
            _copy_range(directory / arguments[0], target, *arguments[1:])
        elif operation == "remove":
            operations.remove(target)
        elif operation not in ("sync", "sync_directory"):
            if operation == "write" and target.name.endswith(".apr-journal"):
                arguments = (_about_files_beside(target, arguments[0]), *arguments[1:])
            descriptor = os.open(target, os.O_RDWR)
            try:
                getattr(operations, operation)(descriptor, *arguments)
            finally:
                os.close(descriptor)


def _about_files_beside(journal: Path, data: bytes) -> bytes:
    change = decode_journal(data)
    if change is None:
        return data
    patches = []
    for patch in change.patches:
        path = journal.parent / patch.name
        source, copy = file_id_at(path), file_id_at(new_beside(path)) if patch.by_copy else None
        patches.append(patch._replace(source=source or patch.source, copy=copy or patch.copy))
    return encode_journal(change._replace(patches=tuple(patches)))


def _copy_range(source: Path, target: Path, offset_bytes: int, size_bytes: int, target_offset_bytes: int) -> None:
    with source.open("rb") as reading, target.open("r+b") as writing:
        reading.seek(offset_bytes)
        writing.seek(target_offset_bytes)
        writing.write(reading.read(size_bytes))


def is_durable(steps: Sequence[Step], at: int) -> bool:
    """Whether step `at` was followed by the sync that makes it durable: of its file, or of the directory of a name.

    A name that was given anew was free before.
    """
    step = steps[at]
    if step.operation == "remove" and any(each[:2] == ("create", step.path) for each in steps[at + 1 :]):
        return True
    wanted = "sync_directory" if step.operation in NAMES else "sync"
    folder = os.path.dirname(step.path) or "."
    place = folder if wanted == "sync_directory" else step.path
    return any(each.operation == wanted and each.path == place for each in steps[at + 1 :])


def cut_disks(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """What can have reached the disk when the power goes at any instant, as the steps that make that disk.

    For every prefix: all of it; only what was synced; all but one step that was not synced; one such write torn in
    half. A room that was lost while writes behind it were not is the writes with the room taken out again.
    """
    for length in range(len(steps) + 1):
        prefix = steps[:length]
        loose = [at for at in range(length) if not prefix[at].is_sync and not is_durable(prefix, at)]
        yield list(prefix)
        yield _without(prefix, loose)
        for at in loose:
            yield _without(prefix, [at])
            if prefix[at].operation == "write":
                path, (data, offset_bytes) = prefix[at].path, prefix[at].arguments
                torn = Step("write", path, (data[: len(data) // 2], offset_bytes))
                yield [*prefix[:at], torn, *prefix[at + 1 :]]


def _without(steps: Sequence[Step], lost: Sequence[int]) -> list[Step]:
    lost_rooms = [at for at in lost if steps[at].operation == "insert_range"]
    followed = [at for at in lost_rooms if any(s.operation == "write" and s.path == steps[at].path for s in steps[at:])]
    gone = {at for at in lost if at not in followed}
    created = {steps[at].path for at in gone if steps[at].operation == "create"}
    kept = [step for at, step in enumerate(steps) if at not in gone and step.path not in created]
    return kept + [Step("collapse_range", steps[at].path, steps[at].arguments) for at in followed]


def copied(source: Path, target: Path) -> Path:
    """`target` as a fresh copy of the directory `source`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target
