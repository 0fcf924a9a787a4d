"""The atlas: every known architecture's on-disk tensors and config facts, generated from the model zoo.

The data is written by `tools/build_atlas.py` from the installed transformers and shipped with the package; nothing
here imports torch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.identity.entries import (
    MOST_TENSORS,
    Entry,
    UndecidedError,
    condition_holds,
    entry_from_json,
    expand,
    own_name,
    resolve_fields,
)
from apr.identity.packed import DataFile
from apr.identity.types import Architecture, ExpectedTensor, Kind, Naming

DATA_FILE = Path(__file__).parent / "data" / "atlas.json.gz"
MAIN_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class Atlas:
    """Look-up over the entries; an entry is parsed when it is asked for."""

    def __init__(self, data: DataFile) -> None:
        self._data = data
        self._head = data.head
        self._entries: dict[int, Entry] = {}

    @cached_property
    def architectures(self) -> tuple[Architecture, ...]:
        """The closed vocabulary, in the order of the data."""
        naming = Naming(self._head.get("naming", "hf"))
        return tuple(Architecture(row[0], row[1], Kind(row[2]), naming) for row in self._head["index"])

    @property
    def head(self) -> Mapping[str, Any]:
        """The first line of the data: the index, and what is known beside the tensors."""
        return self._head

    @property
    def source(self) -> str:
        """What the atlas was generated from, as `transformers 5.23.0`."""
        return str(self._head["source"])

    @property
    def absent(self) -> Mapping[str, str]:
        """`model type/class` of the classes the atlas only names, with the reason why their tensors are not known."""
        return MappingProxyType(self._head["absent"])

    @cached_property
    def pattern_ids(self) -> Mapping[str, int]:
        """All name patterns of the atlas, every number written `#`, with their places."""
        return {pattern: at for at, pattern in enumerate(self._head["patterns"])}

    @property
    def pattern_rows(self) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """For each entry the patterns it must have, and those it can have besides, as places of `pattern_ids`."""
        return ((row[3], row[4]) for row in self._head["index"])

    def entry_at(self, at: int) -> Entry:
        if at not in self._entries:
            self._entries[at] = entry_from_json(self._data.document(at))
        return self._entries[at]

    def entry(self, architecture: Architecture) -> Entry:
        """The entry of a member of the vocabulary."""
        return self.entry_at(self._positions[architecture.class_name, architecture.model_type])

    def find_class(self, name: str, model_type: str | None = None) -> Entry | None:
        """The entry of a class name, spelled exactly; for a class of several model types the one asked for, else the
        one that the class itself declares."""
        places = self._by_class.get(name, ())
        exact = [at for at in places if self.architectures[at].model_type == model_type]
        return self.entry_at((*exact, *places)[0]) if places else None

    def find_model_type(self, name: str) -> tuple[Entry, ...]:
        """Entries of a model type, spelled exactly (one model type may have several heads)."""
        return tuple(self.entry_at(at) for at in self._by_model_type.get(name, ()))

    def first_of(self, model_type: str) -> Entry | None:
        """The entry that a model type, spelled exactly, means by itself."""
        places = self._by_model_type.get(model_type)
        return self.entry_at(places[0]) if places else None

    def serves(self, class_name: str, model_type: str) -> bool:
        """Whether the class has an entry under that model type."""
        return (class_name, model_type) in self._positions

    @cached_property
    def _positions(self) -> dict[tuple[str, str], int]:
        return {(each.class_name, each.model_type): at for at, each in enumerate(self.architectures)}

    @cached_property
    def _by_class(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for at, architecture in enumerate(self.architectures):
            found.setdefault(architecture.class_name, []).append(at)
        return found

    @cached_property
    def _by_model_type(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for at, architecture in enumerate(self.architectures):
            found.setdefault(architecture.model_type, []).append(at)
        return found


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """The shipped atlas, read once for each process."""
    return read_atlas(DATA_FILE)


def read_atlas(path: Path) -> Atlas:
    """The atlas in the shipped file `path`."""
    return Atlas(DataFile(path.read_bytes()))


def expected_tensors(
    entry: Entry, config: Mapping[str, Any], max_tensors: int = MOST_TENSORS
) -> Mapping[str, ExpectedTensor] | None:
    """Every tensor that `entry` wants on disk under `config`, by name; optional and tied ones are marked.

    None when the atlas cannot say exactly (an inexact entry, or a config value whose effect on the tensors it does
    not express): then the class has to be built without memory to learn its tensors. Absent config fields take the
    default of the config class. Raises UnevaluableError for unusable values, before more than `max_tensors` names
    are made.
    """
    if not entry.is_exact or uses_unexpressed_value(entry, config):
        return None
    try:
        return symbolic_tensors(entry, config, max_tensors)
    except UndecidedError:
        return None


def symbolic_tensors(
    entry: Entry, config: Mapping[str, Any], max_tensors: int = MOST_TENSORS
) -> Mapping[str, ExpectedTensor]:
    """What the templates of `entry` say under `config`, exact or not."""
    fields = resolve_fields(entry, config)
    tensors: dict[str, ExpectedTensor] = {}
    for template in entry.templates:
        if condition_holds(template.when, fields):
            for tensor in expand(template, fields, min(max_tensors, MOST_TENSORS) - len(tensors)):
                tensors[tensor.name] = tensor
    return MappingProxyType(tensors)


def uses_unexpressed_value(entry: Entry, config: Mapping[str, Any]) -> bool:
    """Whether `config` gives a field a value whose effect the templates do not express.

    That is another value than the default for a field the generator could not explore, and 0 or nothing for a size that
    it never saw so (no experts, no shared width, no low rank): such a switch usually takes whole modules away, or puts
    others in their place. Without one of the `MAIN_SIZES` there is no model at all.
    """
    fields = resolve_fields(entry, config)
    if any(fields.get(field) != entry.defaults.get(field) for field in entry.fixed):
        return True
    if any(fields.get(field) not in words.values() for field, words in entry.texts.items()):
        return True
    main = {own_name(entry, size) for size in MAIN_SIZES}
    return any(
        (fields.get(size) == 0 and fields.get(size) is not False)
        or (
            size not in main
            and size not in entry.nullable
            and fields.get(size) is None
            and entry.defaults.get(size) is not None
        )
        for size in entry.positive_sizes
    )
