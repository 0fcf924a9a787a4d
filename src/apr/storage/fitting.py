"""Does a journal belong to the files beside it? It may have come with a download, or the files may be others by now."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from apr.errors import DamagedFileError, RefusedError, shell_word
from apr.storage.inplace import content_of
from apr.storage.journal import MOST_JOURNAL_BYTES
from apr.storage.patches import Change, FilePatch, check_plan, is_between
from apr.storage.unchanged import file_id

SMALL_FILE_NAMES = frozenset(
    {
        "config.json",
        "apr.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "target.spm",
        "chat_template.jinja",
        "chat_template.json",
    }
)
"""The small files that stamps of a directory write (`apr.formats`): its config, its record, those of its tokenizer."""

_WEIGHT_SUFFIX = ".safetensors"
_INDEX_NAME = "model.safetensors.index.json"


def read_journal(journal: Path, owner: int) -> bytes | None:
    """The bytes of the journal of a file of the user `owner`; None when its writer was alive and is done.

    Raises DamagedFileError when it is a link, a pipe or the like, too long, or of a user who is neither that one nor
    this process's; OSError.
    """
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise _unfit(journal, "a regular file", "a link" if os.path.islink(journal) else "a socket") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(journal, "a regular file", "a pipe, directory or device")
        if status.st_size > MOST_JOURNAL_BYTES:
            raise _unfit(journal, f"a journal of at most {MOST_JOURNAL_BYTES} bytes", f"{status.st_size} bytes")
        if status.st_uid not in (owner, os.geteuid()):
            raise _unfit(journal, f"a journal of user {owner}, whose file it is", f"one of user {status.st_uid}")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def check_may_name(journal: Path, change: Change, locked: Path) -> None:
    """Raise DamagedFileError unless `change` is to `locked` alone, or to files that stamps of a directory change."""
    if not locked.is_dir():
        if [patch.name for patch in change.patches] != [locked.name] or change.replacements:
            raise _unfit(journal, f"a change to {locked.name} alone", "a change to other files")
    else:
        names = [patch.name for patch in change.patches if not _is_weight_file(locked, patch.name)]
        names += [each.name for each in change.replacements if each.name not in SMALL_FILE_NAMES]
        if names:
            raise _unfit(journal, "a change to weight files, config.json, apr.json or tokenizer files", names[0])
    for patch in change.patches:
        try:
            check_plan(patch)
        except RefusedError as error:
            raise _unfit(journal, str(error.expected), str(error.found)) from error


def _is_weight_file(directory: Path, name: str) -> bool:
    """Whether `name` is that of a weight file by its suffix, or one that the index of shards names."""
    return name.endswith(_WEIGHT_SUFFIX) or json.dumps(name).encode() in (content_of(directory / _INDEX_NAME) or b"")


def others_in(journal: Path, files: Mapping[str, int], change: Change) -> list[str]:
    """The names in `change` that stand for files of another program by now.

    Raises DamagedFileError for a file that `change` is about and that does not hold what can come of it.
    """
    patched = [patch.name for patch in change.patches if not _is_fit(journal, files[patch.name], patch)]
    contents = ((each, content_of(journal.parent / each.name)) for each in change.replacements)
    return patched + [each.name for each, content in contents if content not in (each.old, each.new)]


def _is_fit(journal: Path, descriptor: int, patch: FilePatch) -> bool:
    """Whether the file is the one of `patch`, as before, as after, or between.

    Only a file that is known may be exchanged for another. One that is changed itself may have been moved with its
    journal; it fits by its bytes, since no other byte is written.
    """
    there = file_id(descriptor)
    if patch.by_copy:
        return patch.source is not None and there in (patch.source, patch.copy)
    problem = _problem_with(descriptor, there.size_bytes, patch)
    if problem is None:
        return True
    if patch.source is not None and patch.source.inode != there.inode:
        return False
    raise _unfit(journal, *problem)


def _problem_with(descriptor: int, size_bytes: int, patch: FilePatch) -> tuple[str, str] | None:
    """What is expected and what is found, where the file cannot come from `patch`."""
    if size_bytes not in (patch.size_bytes, patch.new_size_bytes):
        return f"{patch.size_bytes} or {patch.new_size_bytes} bytes", f"{size_bytes} bytes"
    has_room = size_bytes == patch.new_size_bytes
    current = [
        os.pread(descriptor, len(splice.new), splice.new_offset_bytes)
        if has_room
        else os.pread(descriptor, len(splice.old), splice.old_offset_bytes)
        for splice in patch.splices
    ]
    if is_between(patch, current, has_room=has_room):
        return None
    return "bytes from before or after the stamp", "other bytes"


def _unfit(journal: Path, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "the journal of an interrupted stamp does not fit the file beside it",
        where=str(journal),
        expected=expected,
        found=found,
        remedy=f"if the file was fetched or written again since, remove {shell_word(journal)}",
        invariant="INV-STAMP-ATOMIC-001",
    )
