"""Write a Hugging Face model directory that `from_pretrained` reads: config, weights, tokenizer, and our record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apr.errors import UsageError
from apr.formats.hf.read import CONFIG_FILE_NAME, GENERATION_CONFIG_FILE_NAME
from apr.formats.hf.weights import INDEX_FILE_NAME, SINGLE_FILE_NAME
from apr.formats.json_text import with_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_FILE_NAME, Recorded
from apr.formats.safetensors.write import write_safetensors
from apr.formats.tokenizer_facts import is_plain_file_name
from apr.formats.writing import STAMP_SLACK_BYTES, TensorToWrite, WrittenFile, check_tensors
from apr.storage.atomic import atomic_directory

# transformers' own default for `max_shard_size` at the time of writing.
DEFAULT_SHARD_BYTES = 5 * 10**9

_OWN_NAMES = frozenset({CONFIG_FILE_NAME, GENERATION_CONFIG_FILE_NAME, RECORDED_FILE_NAME, INDEX_FILE_NAME})


def write_hf_directory(
    path: Path,
    *,
    config: Mapping[str, Any],
    tensors: Sequence[TensorToWrite],
    tokenizer_files: Mapping[str, bytes] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    recorded: Recorded = NOTHING_RECORDED,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    metadata_slack_bytes: int = STAMP_SLACK_BYTES,
) -> WrittenFile:
    """Write the directory `path`, which must not exist yet; it appears whole or not at all.

    shard_bytes: weights beyond this size are split into shards with an index. metadata_slack_bytes: room in the header
    of each weight file for texts that grow later. The digests in the answer are of the
    bytes written. Raises RefusedError when `path` exists, UsageError for what the directory cannot hold,
    InputOutputError when the operating system refuses.
    """
    path = Path(path)
    check_tensors(tensors)
    tokenizer_files = tokenizer_files or {}
    for name in tokenizer_files:
        _check_file_name(name)
    with atomic_directory(path) as directory:
        digests, size_bytes = _write_weights(directory, tensors, shard_bytes, metadata_slack_bytes)
        _write_json(directory / CONFIG_FILE_NAME, config)
        if generation_config is not None:
            _write_json(directory / GENERATION_CONFIG_FILE_NAME, generation_config)
        if recorded != NOTHING_RECORDED:
            _write_json(directory / RECORDED_FILE_NAME, recorded.to_json())
        for name, data in tokenizer_files.items():
            (directory / name).write_bytes(data)
    return WrittenFile(path, size_bytes, digests)


def split_into_shards(tensors: Sequence[TensorToWrite], shard_bytes: int) -> list[list[TensorToWrite]]:
    """The tensors in their order, as many in each shard as fit; one that is larger than a shard gets its own."""
    shards: list[list[TensorToWrite]] = [[]]
    filled_bytes = 0
    for tensor in tensors:
        if shards[-1] and filled_bytes + tensor.size_bytes > shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(tensor)
        filled_bytes += tensor.size_bytes
    return shards


def _write_weights(
    directory: Path, tensors: Sequence[TensorToWrite], shard_bytes: int, metadata_slack_bytes: int
) -> tuple[dict[str, str], int]:
    shards = split_into_shards(tensors, shard_bytes)
    if len(shards) == 1:
        names = [SINGLE_FILE_NAME]
    else:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    written = [
        write_safetensors(directory / name, tensors=shard, metadata_slack_bytes=metadata_slack_bytes)
        for name, shard in zip(names, shards, strict=True)
    ]
    digests = {name: digest for file in written for name, digest in file.tensor_digests.items()}
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total_size = sum(tensor.size_bytes for tensor in tensors)
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(directory / INDEX_FILE_NAME, index)
    return digests, sum(file.size_bytes for file in written)


def _check_file_name(name: str) -> None:
    is_weights = name.endswith((".safetensors", ".bin"))
    if not is_plain_file_name(name) or name in _OWN_NAMES or is_weights:
        raise UsageError(
            "a tokenizer file may not be written under this name",
            where=repr(name),
            expected="a plain file name, like tokenizer.json, that is none of the model's own files",
            found="a path" if "/" in name else "another name",
        )


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(with_tagged_floats(document), indent=2, ensure_ascii=False, allow_nan=False)
        data = (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError("a value cannot be written as JSON", where=path.name, found=str(error)[:200]) from error
    path.write_bytes(data)
