"""Signing a checkpoint, and verifying it: OpenSSF `model-signing` does both, this holds the files still meanwhile.

With a key nothing leaves the machine. Keyless signatures (`Sigstore`) ask the network, only when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import AprError, InputOutputError, MissingExtraError, NotFoundError, RefusedError, UsageError
from apr.formats.registry import open_checkpoint
from apr.stamping.fleet import CHECKPOINT_SUFFIXES
from apr.stamping.signatures import DIRECTORY_SIGNATURE_NAME, sign_command, signature_path, signed_names
from apr.storage.atomic import atomic_file
from apr.storage.reading import HeldDirectory, SourceFile

SIGNATURE_ID = "INV-SIGNATURE-001"


class KeySigner(NamedTuple):
    """private_key: a PEM file with an elliptic-curve key (P-256, P-384 or P-521). password: of an encrypted one."""

    private_key: Path
    password: bytes | None = None


class KeyVerifier(NamedTuple):
    """public_key: a PEM file, the public half of the signer's key."""

    public_key: Path


class Sigstore(NamedTuple):
    """Keyless: who signs is shown by a log-in, and recorded in a public log. Asks the network.

    identity, identity_provider: who must have signed and who vouches for that (an URL); for verifying.
    """

    identity: str = ""
    identity_provider: str = ""


class Signed(NamedTuple):
    """A signature that was written. file_count: the files it lists."""

    path: Path
    signature: Path
    method: str
    file_count: int


class Verified(NamedTuple):
    """A signature that holds. notes: what the library had to say."""

    path: Path
    signature: Path
    method: str
    notes: tuple[str, ...]


def sign_path(
    path: Path, signer: KeySigner | Sigstore, signature: Path | None = None, *, force: bool = False
) -> Signed:
    """Sign the checkpoint file, checkpoint directory or run directory at `path`.

    signature: where it goes, by default `X.sig` beside a file and `model.sig` in a directory. force: replace one that
    stands there. Raises MissingExtraError, NotFoundError, DamagedFileError (a file that is no checkpoint), UsageError
    (a key that cannot be used), RefusedError (there is a signature already, or a link in the directory) and
    InputOutputError.
    """
    library = _library()
    path = Path(path)
    target = signature_path(path) if signature is None else signature
    with _held(path, must_be_checkpoint=True):
        if os.path.lexists(target) and not force:
            raise RefusedError(
                "there is a signature already",
                where=str(target),
                expected="no signature, or --force",
                found="a file",
                remedy=sign_command(path, target, force=True),
            )
        config = library.signing.Config()
        _use_signer(config, signer)
        config.set_hashing_config(library.hashing.Config().set_ignored_paths(paths=[os.path.abspath(target)]))
        _write_signature(config, path, target)
        return Signed(path, target, _method(signer), len(signed_names(target)))


def verify_path(path: Path, verifier: KeyVerifier | Sigstore, signature: Path | None = None) -> Verified:
    """Verify the signature of `path`: every byte is read.

    Raises RefusedError (INV-SIGNATURE-001, with the command that signs again) when it does not hold, NotFoundError
    when there is none, MissingExtraError, UsageError for a key that cannot be used, InputOutputError.
    """
    library = _library()
    path = Path(path)
    stands = signature_path(path) if signature is None else signature
    with _held(path):
        if not stands.is_file():
            raise NotFoundError(
                "there is no signature", where=str(stands), remedy=f"sign it first: {sign_command(path, signature)}"
            )
        config = library.verifying.Config()
        _use_verifier(config, verifier)
        import io

        said = io.StringIO()  # The library prints; stdout carries the answer alone.
        try:
            with redirect_stdout(said):
                config.verify(os.path.realpath(path), os.path.abspath(stands))
        except OSError as error:
            raise InputOutputError(f"cannot verify: {error.strerror or error}", where=str(path)) from error
        except Exception as error:
            raise _not_verified(path, stands, error) from error
        return Verified(path, stands, _method(verifier), tuple(said.getvalue().split("\n")[:-1]))


def _library() -> Any:
    try:
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingExtraError(
            f"signing needs model-signing ({error.name} is not installed)", remedy="pip install 'apr[sign]'"
        ) from error
    return model_signing


def _method(how: KeySigner | KeyVerifier | Sigstore) -> str:
    return "sigstore" if isinstance(how, Sigstore) else "key"


@contextmanager
def _held(path: Path, *, must_be_checkpoint: bool = False) -> Iterator[None]:
    """Within the block no checkpoint at or below `path` is stamped, and none is half stamped."""
    with ExitStack() as stack:
        if not path.is_dir():
            opened = open_checkpoint(path) if must_be_checkpoint else SourceFile(path)
            stack.callback(opened.close)
            yield
            return
        stack.callback(HeldDirectory(path).close)
        is_empty = True
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in sorted(names)):
                is_empty = is_empty and file.name == DIRECTORY_SIGNATURE_NAME
                if file.suffix in CHECKPOINT_SUFFIXES and file.is_file():
                    stack.callback(SourceFile(file).close)
        if is_empty:
            raise UsageError(
                "the directory holds no file to sign", where=str(path), remedy="name a checkpoint or a run directory"
            )
        yield


def _use_signer(config: Any, signer: KeySigner | Sigstore) -> None:
    if isinstance(signer, Sigstore):
        with _network():
            config.use_sigstore_signer(use_ambient_credentials=True)
        return
    with _key(signer.private_key, "private"):
        config.use_elliptic_key_signer(private_key=signer.private_key, password=signer.password)


def _use_verifier(config: Any, verifier: KeyVerifier | Sigstore) -> None:
    if isinstance(verifier, Sigstore):
        with _network():
            config.use_sigstore_verifier(identity=verifier.identity, oidc_issuer=verifier.identity_provider)
        return
    with _key(verifier.public_key, "public"):
        config.use_elliptic_key_verifier(public_key=verifier.public_key)


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except AprError:
        raise
    except Exception as error:
        raise InputOutputError(
            "Sigstore could not be reached, or refused",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="look at the connection, or sign with a key: --private-key KEY.pem",
        ) from error


@contextmanager
def _key(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"no such {kind} key", where=str(path), remedy="check the path") from error
    except OSError as error:
        raise InputOutputError(f"cannot read the {kind} key: {error.strerror}", where=str(path)) from error
    except Exception as error:
        raise UsageError(
            f"the {kind} key cannot be used",
            where=str(path),
            expected=f"a PEM file with {'an elliptic-curve' if kind == 'private' else 'a public elliptic-curve'} key"
            " (P-256, P-384 or P-521)",
            # The library asks an RSA key for its curve.
            found="a key of another kind" if isinstance(error, AttributeError) else str(error)[:200],
            remedy="--password-file FILE for an encrypted one"
            if kind == "private"
            else "openssl pkey -in KEY.pem -pubout -out PUBLIC.pem",
        ) from error


def _write_signature(config: Any, path: Path, target: Path) -> None:
    """The library writes by a plain write, so it writes elsewhere, and its file appears whole."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        made = Path(folder) / DIRECTORY_SIGNATURE_NAME
        try:
            config.sign(os.path.realpath(path), made)
        except OSError as error:
            raise InputOutputError(f"cannot sign: {error.strerror or error}", where=str(path)) from error
        except Exception as error:
            if "symlink" not in str(error):
                what = f"cannot sign: {type(error).__name__}: {str(error)[:200]}"
                raise InputOutputError(what, where=str(path)) from error
            raise RefusedError(
                "the directory holds a link, which a signature does not follow",
                where=str(path),
                expected="files and directories",
                found=str(error)[:200],
                remedy=f"copy it with the links followed first: cp -rL {path} COPY",
            ) from error
        data = made.read_bytes()
    with atomic_file(target) as file:
        file.write(data)


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
