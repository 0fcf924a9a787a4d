"""Verifying a signature: `model-signing` does it; what does not hold is named, with the command that signs again."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

from apr.errors import AprError, InputOutputError, NotFoundError, RefusedError
from apr.formats.registry import open_checkpoint
from apr.stamping.signatures import sign_command, signature_path
from apr.stamping.signers import KeyVerifier, Sigstore, library, method_of, use_verifier
from apr.stamping.signing import held_still

SIGNATURE_ID = "INV-SIGNATURE-001"


class Verified(NamedTuple):
    """A signature that holds. notes: what the library had to say."""

    path: Path
    signature: Path
    method: str
    notes: tuple[str, ...]


def verify_path(path: Path, verifier: KeyVerifier | Sigstore, signature: Path | None = None) -> Verified:
    """Verify the signature of `path`: every byte is read.

    Raises RefusedError (INV-SIGNATURE-001, with the command that signs again) when it does not hold, NotFoundError
    when there is none, MissingExtraError, UsageError for a key that cannot be used, InputOutputError.
    """
    signing_library = library()
    path = Path(path)
    stands = signature_path(path) if signature is None else signature
    with held_still(path):
        if not stands.is_file():
            raise NotFoundError(
                "there is no signature", where=str(stands), remedy=f"sign it first: {sign_command(path, signature)}"
            )
        config = signing_library.verifying.Config()
        use_verifier(config, verifier)
        import io

        said = io.StringIO()  # The library prints; stdout carries the answer alone.
        try:
            with redirect_stdout(said):
                config.verify(os.path.realpath(path), os.path.abspath(stands))
        except OSError as error:
            raise InputOutputError(f"cannot verify: {error.strerror or error}", where=str(path)) from error
        except Exception as error:
            raise _not_verified(path, stands, error) from error
        return Verified(path, stands, method_of(verifier), tuple(said.getvalue().split("\n")[:-1]))


def _not_verified(path: Path, signature: Path, error: Exception) -> AprError:
    differences = _differences(str(error), path)
    if differences:
        what, found = "the signature does not hold: what was signed has changed", "; ".join(differences)
    elif "Key mismatch" in str(error):
        what, found = "the signature is of another key", "the public key of the signer is not the one that was given"
    else:
        what, found = "the signature does not hold", f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
    stamped = _newest_stamp(path)
    return RefusedError(
        what,
        where=str(path),
        expected=f"the bytes that {signature} was made over",
        found=f"{found}; its newest stamp is of {stamped}" if stamped and differences else found,
        remedy=sign_command(path, signature, force=True),
        invariant=SIGNATURE_ID,
        facts={"signature": str(signature), "differences": differences, "newest_stamp": stamped},
    )


def _differences(message: str, path: Path) -> list[str]:
    """What differs, in words, from the text of the library's error, which has it in no other form."""
    import ast

    head = "Signature mismatch: "
    if not message.startswith(head):
        return []
    try:
        lines = [str(line) for line in ast.literal_eval(message[len(head) :])]
    except (ValueError, SyntaxError):
        return ["other bytes or other files"]
    return [_in_words(line, path) for line in lines]


def _in_words(line: str, path: Path) -> str:
    if line.startswith("Hash mismatch for '"):
        name = line.removeprefix("Hash mismatch for '").partition("': Expected")[0]
        return f"{path.name if name == '.' else name} has other bytes"
    what, _, names = line.partition(": ")
    said = {"Extra": "added", "Missing": "missing"}.get(what.partition(" ")[0])
    return f"{said}: {names}" if said else line


def _newest_stamp(path: Path) -> str | None:
    from apr.stamping.patch import editor_of

    try:
        with open_checkpoint(path) as checkpoint:
            entries = editor_of(checkpoint.format).history(checkpoint)
    except AprError:  # A run directory, or what was damaged since: the refusal stands without it.
        return None
    times = [str(entry["time"]) for entry in entries if entry.get("time")]
    return times[-1] if times else None
