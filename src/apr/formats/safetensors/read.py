"""Open a single safetensors file as a checkpoint, without any file that may stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from apr.formats.base import Checkpoint, Format, Stamp, StampKey
from apr.formats.safetensors.header import METADATA_KEY, read_header
from apr.storage.reading import SourceFile

STAMP_KEYS = {
    "architecture": StampKey.APR_ARCHITECTURE,
    "hf_architecture": StampKey.APR_HF_ARCHITECTURE,
    "hf_model_type": StampKey.APR_HF_MODEL_TYPE,
    "model_type": StampKey.CONFIG_MODEL_TYPE,
}


def read_safetensors(path: Path) -> Checkpoint:
    """The checkpoint in the one file `path`: tensors, and stamps where `__metadata__` holds some.

    A `config.json` in the same directory is not read, as nothing ties it to this file: name the directory for that.
    Raises DamagedFileError where the header contradicts itself or the file's size.
    """
    return safetensors_in(SourceFile(Path(path)))


def safetensors_in(file: SourceFile) -> Checkpoint:
    """As `read_safetensors`, of a file that is open, here or on another machine; an error closes it."""
    try:
        tensors, metadata = read_header(file)
    except BaseException:
        file.close()
        raise
    return Checkpoint(
        path=file.path,
        format=Format.SAFETENSORS,
        files=(file,),
        tensors=MappingProxyType(tensors),
        stamps=stamps_in(metadata),
        config=None,
        config_place=None,
        metadata=MappingProxyType(metadata),
    )


def stamps_in(metadata: Mapping[str, str], place: str = f"safetensors {METADATA_KEY}") -> tuple[Stamp, ...]:
    """The identity stamps in the texts of a safetensors file; `place` names them to the user."""
    return tuple(
        Stamp(key, metadata[name], f"{place}: {name}") for name, key in STAMP_KEYS.items() if metadata.get(name)
    )
