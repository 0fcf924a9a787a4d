"""From a path to an open checkpoint: what a file is shows in its first bytes, a directory in its contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from apr.errors import InputOutputError, NotFoundError
from apr.formats.apr2.layout import MAGIC, OLDER_MAGICS
from apr.formats.base import Checkpoint
from apr.formats.damage import MAGIC_VALID, damaged
from apr.formats.safetensors.header import looks_like_safetensors
from apr.storage.reading import SourceFile, is_put_back

if TYPE_CHECKING:
    from apr.storage.remote.address import Address
    from apr.storage.remote.client import Client
    from apr.storage.remote.traffic import Traffic

_START_BYTES = 64
_GGUF_MAGIC = b"GGUF"

# Files people have that are not read: first bytes, what it is, the way out.
_UNREAD_FORMATS = (
    (
        b"PK\x03\x04",
        "a PyTorch archive; it holds Python pickles, which can run code when they are read, so it is not read",
        "save the model as safetensors first (transformers: save_pretrained)",
    ),
    (
        b"\x80\x02",
        "a Python pickle, which can run code when it is read, so it is not read",
        "save the model as safetensors first (transformers: save_pretrained)",
    ),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it points to",
        "fetch the file itself: git lfs pull",
    ),
)


def open_readable(path: Path) -> Checkpoint:
    """As `open_checkpoint`, of a PEFT adapter directory too: for callers that show what is there and load nothing."""
    from apr.formats.peft.read import is_adapter_directory, read_adapter_directory

    path = Path(path)
    return read_adapter_directory(path) if is_adapter_directory(path) else open_checkpoint(path)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`: an APR v2 file, a `.safetensors` or `.gguf` file, or a Hugging Face directory.

    Only headers are read. Raises NotFoundError when nothing is there, DamagedFileError for a file of no known format
    or one that contradicts itself, InputOutputError when the operating system refuses.
    """
    path = Path(path)
    try:
        is_directory = path.is_dir() or is_put_back(path)
    except PermissionError as error:
        raise _no_permission(path) from error
    except OSError as error:
        raise NotFoundError(
            "no such file",
            where=str(path),
            found=error.strerror,
            invariant="FALSIFY-APR-PRETRAIN-INIT-003",
            remedy="check the path",
        ) from error
    if is_directory:
        return _open_directory(path)
    return checkpoint_in(SourceFile(path))


def open_address(address: Address, client: Client, traffic: Traffic) -> Checkpoint:
    """The checkpoint at `address`, by ranges: headers and configs only; what it costs is counted in `traffic`.

    Raises as `open_checkpoint`, and RefusedError where the server's answers cannot be trusted.
    """
    from apr.storage.remote.files import RemoteDirectory, RemoteFile

    if address.is_file:
        url = f"{address.url}?{address.query}" if address.query else address.url
        return checkpoint_in(RemoteFile(address.path, url, client, traffic))
    from apr.formats.hf.read import read_held_directory

    return read_held_directory(RemoteDirectory(address, client, traffic))


def checkpoint_in(file: SourceFile) -> Checkpoint:
    """The checkpoint in an open file, here or on another machine; an error closes the file."""
    try:
        return _reader_of(file)(file)
    except BaseException:
        file.close()
        raise


def _reader_of(file: SourceFile) -> Callable[[SourceFile], Checkpoint]:
    """The reader for what the first bytes show; raises DamagedFileError when there is none."""
    start = file.read_at(0, min(file.size_bytes, _START_BYTES), "the first bytes")
    if start.startswith(MAGIC) or start[:4] in OLDER_MAGICS or not start:
        from apr.formats.apr2.read import apr2_in

        return apr2_in
    if start.startswith(_GGUF_MAGIC):
        from apr.formats.gguf.read import gguf_in

        return gguf_in
    for magic, what, remedy in _UNREAD_FORMATS:
        if start.startswith(magic):
            found = repr(start[:16])
            raise damaged(what, path=file.path, expected=_EXPECTED, found=found, invariant=MAGIC_VALID, remedy=remedy)
    if file.path.suffix == ".safetensors" or looks_like_safetensors(start, file.size_bytes):
        from apr.formats.safetensors.read import safetensors_in

        return safetensors_in
    raise damaged(
        "the file is of no known format",
        path=file.path,
        offset_bytes=0,
        expected=_EXPECTED,
        found=f"a file that begins with {start[:16]!r}",
        invariant=MAGIC_VALID,
        remedy="check that the path names the checkpoint itself",
    )


_EXPECTED = f"an APR v2 file (magic {MAGIC!r}), a .safetensors or .gguf file, or a Hugging Face directory"


def _open_directory(path: Path) -> Checkpoint:
    from apr.formats.hf.read import read_hf_directory
    from apr.formats.peft.read import is_adapter_directory, no_model_by_itself

    try:
        if is_adapter_directory(path):
            raise no_model_by_itself(path)
        return read_hf_directory(path)
    except PermissionError as error:
        raise _no_permission(path) from error
    except OSError as error:
        raise InputOutputError(
            f"cannot read the directory: {error.strerror}", where=str(path), remedy="look at the state of the disk"
        ) from error


def _no_permission(path: Path) -> InputOutputError:
    return InputOutputError("no permission to read the path", where=str(path), remedy="check its access rights")
