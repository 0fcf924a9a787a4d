"""The weight files of a Hugging Face directory: one safetensors file, or shards listed by an index."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from apr.errors import DamagedFileError, NotFoundError, shell_word, shown_name
from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.damage import FILE_INTEGRITY, damaged
from apr.formats.json_text import read_object_in
from apr.formats.safetensors.header import read_header
from apr.storage.reading import MOST_FILES, HeldDirectory, SourceFile

SINGLE_FILE_NAME = "model.safetensors"
INDEX_FILE_NAME = "model.safetensors.index.json"

NAMES_OF_OTHER_WEIGHTS = (
    "config.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.pt",
    "consolidated.00.pth",
    "consolidated.safetensors",
    "tf_model.h5",
    "flax_model.msgpack",
    "README.md",
)
"""What is looked for in a directory that cannot be listed, to say what it holds in place of safetensors."""

_LONGEST_INDEX_BYTES = 64 << 20
_MOST_SHARDS = 1000

# What a header takes: names, shapes and offsets of large models run to 110 to 140 bytes a tensor.
_BYTES_OF_AN_ENTRY, _BYTES_BESIDE_ENTRIES = 160, 1 << 10
# JSON can spell these halves of a character, which stand for nothing and cannot be sent or stored.
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHARD_NAME = re.compile(r"model-\d+-of-\d+\.safetensors")
_VARIANT_NAME = re.compile(
    r"model\.[A-Za-z0-9_]+\.safetensors|(?P<index>model\.safetensors\.index)\.[A-Za-z0-9_]+\.json"
)
"""What `save_pretrained(variant="fp16")` writes, in one file or in shards."""

_PICKLE_NAME = re.compile(r".*\.(bin|pt|pth|ckpt)|pytorch_model\.bin\.index\.json")


class Weights(NamedTuple):
    """All tensors of a directory by name, the open files they lie in, and what the files contradict each other in.

    metadata: file name to the texts of its `__metadata__`, for files that have some.
    """

    files: tuple[SourceFile, ...]
    tensors: Mapping[str, TensorEntry]
    problems: tuple[IntegrityProblem, ...]
    metadata: Mapping[str, Mapping[str, str]]


def open_weights(directory: HeldDirectory) -> Weights:
    """The weights in `directory`; the caller closes the files.

    Raises DamagedFileError when there are none, a shard of the index is missing or outside the directory, a listed
    tensor is not in its shard, or two shards hold the same name.
    """
    has_index = directory.has(INDEX_FILE_NAME)
    if directory.has(SINGLE_FILE_NAME):
        return _open_single(directory, has_index)
    if has_index:
        return _open_sharded(directory)
    raise _no_weights(directory)


def _open_single(directory: HeldDirectory, has_index: bool) -> Weights:
    file = directory.open(SINGLE_FILE_NAME)
    try:
        tensors, texts = read_header(file)
    except BaseException:
        file.close()
        raise
    problems = []
    if has_index:
        problems.append(
            IntegrityProblem(
                "the directory holds two sets of weights, and loaders differ in which they take",
                where=str(directory.path),
                expected=f"{SINGLE_FILE_NAME} or {INDEX_FILE_NAME}",
                found="both",
            )
        )
    else:
        problems += [each._replace(is_harmless=True) for each in _stray_shards(directory, [])]
    return Weights((file,), tensors, tuple(problems), {SINGLE_FILE_NAME: texts} if texts else {})


def _open_sharded(directory: HeldDirectory) -> Weights:
    index_path = directory.path / INDEX_FILE_NAME
    index = read_object_in(directory, INDEX_FILE_NAME, _LONGEST_INDEX_BYTES)
    weight_map = _weight_map(index_path, index)
    names = sorted(set(weight_map.values()))
    if len(names) > MOST_FILES:
        raise damaged(
            "the index names more files than any model has",
            path=index_path,
            expected=f"at most {MOST_FILES} files",
            found=f"{len(names)} files",
        )
    counts = Counter(weight_map.values())
    directory.expect(
        names, {name: _BYTES_BESIDE_ENTRIES + count * _BYTES_OF_AN_ENTRY for name, count in counts.items()}
    )
    _check_shards_exist(directory, index_path, names)
    files: list[SourceFile] = []
    try:
        shards: dict[str, dict[str, TensorEntry]] = {}
        metadata: dict[str, Mapping[str, str]] = {}
        for name in names:
            files.append(directory.open(name))
            shards[name], texts = read_header(files[-1])
            if texts:
                metadata[name] = texts
        tensors = _joined(shards)
        _check_mapped(index_path, weight_map, shards)
    except BaseException:
        for file in files:
            file.close()
        raise
    problems = [*_unlisted(index_path, weight_map, shards), *_stray_shards(directory, names)]
    problems += _total_size_problems(index_path, index, tensors)
    return Weights(tuple(files), tensors, tuple(problems), metadata)


def _weight_map(index_path: Path, index: Mapping[str, Any]) -> Mapping[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        found = f"{weight_map!r:.80}"
        raise damaged("the index maps no tensors", path=index_path, expected="an object weight_map", found=found)
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _stays_inside(shard):
            raise damaged(
                "a shard name leads outside the directory or is no name",
                path=index_path,
                place=f"weight_map: {tensor}",
                expected="the name of a file in this directory",
                found=f"{shard!r:.120}",
            )
    return weight_map


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    is_text = "\0" not in name and not _SURROGATE.search(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and is_text


def _check_shards_exist(directory: HeldDirectory, index_path: Path, names: list[str]) -> None:
    missing = [name for name in names if not directory.holds(name)]
    if missing:
        raise DamagedFileError(
            f"{len(missing)} of {len(names)} shards listed in the index are missing",
            where=str(index_path),
            expected="every listed shard in the directory",
            found=f"missing: {_first(missing)}",
            invariant=FILE_INTEGRITY,
            remedy="fetch the missing shards, or the whole checkpoint, again",
            facts={"missing_shards": missing},
        )


def _first(names: list[str]) -> str:
    return ", ".join(map(shown_name, names[:8])) + (", …" if len(names) > 8 else "")


def _joined(shards: Mapping[str, Mapping[str, TensorEntry]]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for entries in shards.values():
        for name, entry in entries.items():
            other = tensors.setdefault(name, entry)
            if other is not entry:
                raise damaged(
                    "two shards hold a tensor of the same name",
                    path=entry.file.path,
                    place=f"tensor {name}",
                    expected="each tensor in one shard",
                    found=f"also in {other.file.path.name}",
                )
    return tensors


def _check_mapped(
    index_path: Path, weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorEntry]]
) -> None:
    absent = [tensor for tensor, shard in weight_map.items() if tensor not in shards[shard]]
    if absent:
        raise DamagedFileError(
            f"{len(absent)} tensors listed in the index are not in their shard",
            where=f"{index_path}: weight_map: {shown_name(absent[0])}",
            expected=f"the tensor in {weight_map[absent[0]]}",
            found=f"missing: {_first(absent)}",
            invariant=FILE_INTEGRITY,
            remedy="fetch the index and its shards from the same revision",
            facts={"missing_tensors": absent},
        )


def _unlisted(
    index_path: Path, weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorEntry]]
) -> list[IntegrityProblem]:
    names = [name for entries in shards.values() for name in entries if name not in weight_map]
    if not names:
        return []
    found = f"{len(names)} more: {_first(names)}"
    what = "shards hold tensors that the index does not list"
    return [IntegrityProblem(what, str(index_path), "every stored tensor in weight_map", found)]


def _stray_shards(directory: HeldDirectory, listed: list[str]) -> list[IntegrityProblem]:
    names = directory.names(_unlisted_numbers(listed))
    stray = [name for name in names if _SHARD_NAME.fullmatch(name) and name not in listed]
    if not stray:
        return []
    found = _first(stray)
    what = "the directory holds shards that the index does not list"
    if not listed:
        what = (
            f"the directory holds shards beside {SINGLE_FILE_NAME}, and no index that lists them: loaders ignore them"
        )
    return [IntegrityProblem(what, str(directory.path), f"only shards listed in {INDEX_FILE_NAME}", found)]


def _unlisted_numbers(listed: list[str]) -> Iterator[str]:
    """The shards that a directory which cannot be listed may hold besides: numbers that its index leaves out."""
    known = {name for name in listed if _SHARD_NAME.fullmatch(name)}
    counts = {name.removesuffix(".safetensors").rpartition("-of-")[2] for name in known}
    sane = (count for count in counts if len(count) < 8 and int(count) <= _MOST_SHARDS)
    numbers = ((count, number + 1) for count in sane for number in range(int(count)))
    names = (f"model-{number:0{len(count)}}-of-{count}.safetensors" for count, number in numbers)
    yield from islice((name for name in names if name not in known), _MOST_SHARDS)


def _total_size_problems(
    index_path: Path, index: Mapping[str, Any], tensors: Mapping[str, TensorEntry]
) -> list[IntegrityProblem]:
    metadata = index.get("metadata")
    claimed = metadata.get("total_size") if isinstance(metadata, dict) else None
    stored = sum(entry.size_bytes for entry in tensors.values())
    if not isinstance(claimed, (int, float)) or claimed == stored:
        return []
    what = "the shards do not hold as many bytes as the index says"
    where = f"{index_path}: metadata.total_size"
    return [IntegrityProblem(what, where, f"{claimed} bytes", f"{stored} bytes", is_harmless=True)]


def _no_weights(directory: HeldDirectory) -> DamagedFileError | NotFoundError:
    names = directory.names(NAMES_OF_OTHER_WEIGHTS)
    if not names and directory.is_remote:
        return NotFoundError(
            "there is no model at this address",
            where=str(directory.path),
            expected=f"{SINGLE_FILE_NAME} or {INDEX_FILE_NAME}, and config.json",
            found="no file under any name that models have",
            invariant="FALSIFY-APR-PRETRAIN-INIT-003",
            remedy="check the address; name a single file by its own",
        )
    pickles = [name for name in names if _PICKLE_NAME.fullmatch(name) and name != "training_args.bin"]
    if pickles:
        what = "the weights are stored as Python pickles, which can run code when they are read, so they are not read"
        # Texts of JSON are Python's too; their double quotes stand as they are in a shell's single ones.
        given, written = (json.dumps(directory.local_name + each, ensure_ascii=False) for each in ("", "-safetensors"))
        code = (
            f"from transformers import AutoModelForCausalLM as M; M.from_pretrained({given}).save_pretrained({written})"
        )
        remedy = f"convert once, where you trust the source: python -c {shell_word(code)}"
    elif "adapter_model.safetensors" in names:
        what = "the directory holds an adapter, not a whole model"
        remedy = "merge the adapter into its base model first (peft: merge_and_unload), then save the merged model"
    else:
        what = "the directory holds no weights under the names Hugging Face gives them"
        files = [name for name in names if name.endswith((".apr", ".safetensors"))]
        variant = next((found for name in names if (found := _VARIANT_NAME.fullmatch(name))), None)
        if variant is not None and not directory.is_remote:
            what = "the directory holds the weights under the name of a variant, by which loaders find them when asked"
            plain = INDEX_FILE_NAME if variant["index"] else SINGLE_FILE_NAME
            link = shell_word(directory.path / plain)
            remedy = f"give them the plain name as well: ln -s {shell_word(variant[0])} {link}"
        elif files or directory.is_remote:
            remedy = f"name the file itself: {shell_word(directory.path / (files or ['FILE.safetensors'])[0])}"
        else:
            remedy = "check the path, or fetch the weight files"
    listed = ", ".join(pickles or names) or "nothing"
    return damaged(
        what,
        path=directory.path,
        expected=f"{SINGLE_FILE_NAME} or {INDEX_FILE_NAME}",
        found=listed if len(listed) <= 200 else listed[:200] + "…",
        remedy=remedy,
    )
