"""Signing a checkpoint: OpenSSF `model-signing` does it, this holds the files still meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import InputOutputError, RefusedError, UsageError, shell_word
from apr.formats.registry import open_checkpoint
from apr.stamping.fleet import CHECKPOINT_SUFFIXES
from apr.stamping.signatures import DIRECTORY_SIGNATURE_NAME, sign_command, signature_path, signed_names
from apr.stamping.signers import KeySigner, Sigstore, library, method_of, use_signer
from apr.storage.atomic import atomic_file
from apr.storage.reading import HeldDirectory, SourceFile


class Signed(NamedTuple):
    """A signature that was written. file_count: the files it lists."""

    path: Path
    signature: Path
    method: str
    file_count: int


def sign_path(
    path: Path, signer: KeySigner | Sigstore, signature: Path | None = None, *, force: bool = False
) -> Signed:
    """Sign the checkpoint file, checkpoint directory or run directory at `path`.

    signature: where it goes, by default `X.sig` beside a file and `model.sig` in a directory. force: replace one that
    stands there. Raises MissingExtraError, NotFoundError, DamagedFileError (a file that is no checkpoint), UsageError
    (a key that cannot be used), RefusedError (there is a signature already, or a link in the directory) and
    InputOutputError.
    """
    signing_library = library()
    path = Path(path)
    target = signature_path(path) if signature is None else signature
    with held_still(path, must_be_checkpoint=True):
        if os.path.lexists(target) and not force:
            raise RefusedError(
                "there is a signature already",
                where=str(target),
                expected="no signature, or --force",
                found="a file",
                remedy=sign_command(path, target, force=True),
            )
        config = signing_library.signing.Config()
        use_signer(config, signer)
        config.set_hashing_config(signing_library.hashing.Config().set_ignored_paths(paths=[os.path.abspath(target)]))
        _write_signature(config, path, target)
        return Signed(path, target, method_of(signer), len(signed_names(target)))


@contextmanager
def held_still(path: Path, *, must_be_checkpoint: bool = False) -> Iterator[None]:
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
                remedy=f"copy it with the links followed first: cp -rL {shell_word(path)} COPY",
            ) from error
        data = made.read_bytes()
    with atomic_file(target) as file:
        file.write(data)
