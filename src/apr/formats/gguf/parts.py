"""A model in several GGUF files, as converters and `llama-gguf-split` write them: `NAME-00001-of-00003.gguf`.

The first part holds the keys, and tensors or none; every part says in `split.no` (from 0) and `split.count` which one
of how many it is, and in `split.tensors.count` how many tensors all have together. llama.cpp finds the others by their
names (`llama_split_path`), and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from apr.errors import NotFoundError
from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.gguf.header import Header, read_header
from apr.formats.gguf.layout import SPLIT_COUNT_KEY, SPLIT_NUMBER_KEY, SPLIT_TENSORS_KEY
from apr.storage.reading import SourceFile

PART_NAME = r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf"

MOST_PARTS = 512
"""Each is a file that stays open; models in circulation have a few dozen."""

_PARTS_NAMED = 3


class Part(NamedTuple):
    """One file of the model, with its header."""

    file: SourceFile
    header: Header

    def stated(self, key: str) -> int | None:
        """The whole number under `key`, None where there is none."""
        value = next((pair.value for pair in self.header.pairs if pair.key == key), None)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class Parts(NamedTuple):
    """The parts that are there, in their order, the one with the keys in front. problems: what is wrong among them."""

    parts: tuple[Part, ...]
    problems: tuple[IntegrityProblem, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorEntry]:
        """By name, part after part; of two under one name the first."""
        found: dict[str, TensorEntry] = {}
        for part in self.parts:
            for name, entry in part.header.tensors.items():
                found.setdefault(name, entry)
        return found


def first_part_of(path: Path) -> Path:
    """The file that the model of the GGUF part at `path` begins with; `path` itself where that is not seen."""
    named = re.fullmatch(PART_NAME, path.name)
    first = path if named is None else path.with_name(f"{named['stem']}-00001-of-{named['count']}.gguf")
    return first if first.is_file() else path


def read_parts(file: SourceFile) -> Parts:
    """The model that the open `file` is, or is a part of; the other parts are opened beside it.

    Raises as `read_header`; then the other parts are closed, and `file` is left to the caller.
    """
    part = Part(file, read_header(file))
    count = part.stated(SPLIT_COUNT_KEY) or 1
    if count < 2:
        return Parts((part,))
    named = re.fullmatch(PART_NAME, file.path.name)
    if named is None or int(named["count"]) != count or count > MOST_PARTS:
        return Parts((part,), (_alone(part, count),))
    others: dict[int, Part] = {}
    try:
        missing = []
        for number in range(count):
            if number + 1 != int(named["number"]):
                name = f"{named['stem']}-{number + 1:05d}-of-{count:05d}.gguf"
                try:
                    other = file.sibling(name)
                except NotFoundError:
                    missing.append(name)
                    continue
                others[number] = Part(other, read_header(other))
    except BaseException:
        for other_part in others.values():
            other_part.file.close()
        raise
    numbered = {**others, int(named["number"]) - 1: part}
    parts = tuple(numbered[number] for number in sorted(numbered))
    return Parts(parts, (*_absent(file, missing, count), *_disagreements(numbered, count), *_repeated(parts)))


def _alone(part: Part, count: int) -> IntegrityProblem:
    number = part.stated(SPLIT_NUMBER_KEY)
    return IntegrityProblem(
        "the file is one part of a split model, and its name does not say where the others are",
        f"{part.file.path}: {SPLIT_COUNT_KEY}",
        f"a name like NAME-00001-of-00003.gguf and at most {MOST_PARTS} parts, or a model in one file "
        "(llama-gguf-split --merge makes one)",
        f"part {'?' if number is None else number + 1} of {count}, named {part.file.path.name}",
    )


def _absent(file: SourceFile, missing: Sequence[str], count: int) -> Iterator[IntegrityProblem]:
    if missing:
        named = ", ".join(missing[:_PARTS_NAMED]) + (", ..." if len(missing) > _PARTS_NAMED else "")
        yield IntegrityProblem(
            f"{len(missing)} of the {count} parts of the model are not there",
            str(file.path),
            f"{count} files side by side",
            f"no {named}",
        )


def _disagreements(numbered: dict[int, Part], count: int) -> Iterator[IntegrityProblem]:
    """What a part says of its place and of the whole, where that is not so; llama.cpp refuses the model then."""
    for number, part in numbered.items():
        for key, wanted in ((SPLIT_NUMBER_KEY, number), (SPLIT_COUNT_KEY, count)):
            found = part.stated(key)
            if found != wanted:
                yield IntegrityProblem(
                    "a part of the model says that it is another one",
                    f"{part.file.path}: {key}",
                    f"{wanted}",
                    "absent" if found is None else f"{found}",
                )
    stored = sum(len(part.header.tensors) for part in numbered.values())
    for part in numbered.values():
        stated = part.stated(SPLIT_TENSORS_KEY)
        if stated is not None and stated != stored and len(numbered) == count:
            yield IntegrityProblem(
                "the parts do not hold as many tensors as they were split from",
                f"{part.file.path}: {SPLIT_TENSORS_KEY}",
                f"{stated}",
                f"{stored}",
            )
            return


def _repeated(parts: Iterable[Part]) -> Iterator[IntegrityProblem]:
    seen: dict[str, Part] = {}
    for part in parts:
        for name in part.header.tensors:
            if name in seen:
                yield IntegrityProblem(
                    "a tensor stands in two parts of the model",
                    f"{part.file.path}: tensor {name}",
                    "tensor names that are unique",
                    f"{name} in {seen[name].file.path.name} too",
                )
                return
            seen[name] = part
