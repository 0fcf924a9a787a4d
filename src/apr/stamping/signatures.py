"""Where the signature of a checkpoint stands, and which signatures a change to it breaks; nothing is verified here.

A signature is a Sigstore bundle as OpenSSF `model-signing` writes it: JSON with an in-toto statement, whose predicate
lists the files that were hashed and the paths that were left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import shell_word

DIRECTORY_SIGNATURE_NAME = "model.sig"
"""The library's own default name; of a directory it stands in it."""

FILE_SIGNATURE_SUFFIX = ".sig"
MOST_SIGNATURE_BYTES = 64 << 20
LEVELS_ABOVE = 3  # a run directory that was signed whole holds its checkpoints one or two levels down


class BrokenSignature(NamedTuple):
    """A signature over `signed` that a change breaks. sign_again: the command, but for the key."""

    signature: Path
    signed: Path
    sign_again: str

    def to_json(self) -> dict[str, Any]:
        return {"signature": str(self.signature), "signed": str(self.signed), "sign_again": self.sign_again}


def signature_path(path: Path) -> Path:
    """Where the signature of `path` stands by default: `X.sig` beside a file, `model.sig` in a directory."""
    return path / DIRECTORY_SIGNATURE_NAME if path.is_dir() else path.with_name(path.name + FILE_SIGNATURE_SUFFIX)


def sign_command(path: Path, signature: Path | None = None, *, force: bool = False) -> str:
    """The command that signs `path`, for messages; the key is the reader's to name."""
    words = ["apr", "sign", shell_word(path), "--private-key", "KEY.pem"]
    if signature is not None and signature != signature_path(path):
        words += ["--signature", shell_word(signature)]
    return " ".join([*words, "--force"] if force else words)


def broken_signatures(changed: Iterable[Path]) -> tuple[BrokenSignature, ...]:
    """The signatures that a change to the files `changed` breaks: their own, and of the directories they lie in."""
    found: dict[Path, BrokenSignature] = {}
    for file in changed:
        for signed, signature in _signatures_over(Path(os.path.abspath(file))):
            command = sign_command(signed, signature, force=True)
            found.setdefault(signature, BrokenSignature(signature, signed, command))
    return tuple(found.values())


def signed_names(signature: Path) -> list[str]:
    """The files that a signature lists; `.` stands for a single file."""
    return [each["name"] for each in _predicate(signature)["resources"]]


def _signatures_over(file: Path) -> Iterable[tuple[Path, Path]]:
    own = file.with_name(file.name + FILE_SIGNATURE_SUFFIX)
    if os.path.lexists(own):
        yield file, own
    directory = file.parent
    for _ in range(LEVELS_ABOVE):
        signature = directory / DIRECTORY_SIGNATURE_NAME
        if os.path.lexists(signature) and not _is_left_out(file.relative_to(directory), signature):
            yield directory, signature
        if directory == directory.parent:
            break
        directory = directory.parent


def _is_left_out(name: Path, signature: Path) -> bool:
    """Whether the signature says that it ignores the file; one that cannot be read is taken to cover it."""
    try:
        ignored = _predicate(signature)["serialization"].get("ignore_paths", [])
        return any(name == Path(each) or Path(each) in name.parents for each in ignored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _predicate(signature: Path) -> Any:
    import base64
    import json

    if signature.stat().st_size > MOST_SIGNATURE_BYTES:
        raise ValueError(f"a signature of more than {MOST_SIGNATURE_BYTES} bytes")
    payload = json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]
    return json.loads(base64.b64decode(payload))["predicate"]
