"""JSON from untrusted files: one object, no repeated key, and every way to fail ends in one clear error.

Infinity and NaN: JSON has no such numbers, and Rust readers refuse a file that holds Python's spelling of them. The
tagged form `{"__float__": "Infinity"}` is the one transformers writes into `config.json` (`PreTrainedConfig`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr.errors import DamagedFileError
from apr.formats.damage import damaged
from apr.storage.reading import HeldDirectory, SourceFile

DEEPEST_NESTING = 200
"""Objects and lists inside each other; no config is nested 20 deep, and Python gives up somewhere below 1,000."""

_FLOAT_TAG = "__float__"
_TAGGED_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class _RepeatedKeyError(ValueError):
    pass


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(f"the key {key[:80]!r} twice in one object")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is Python's word and no JSON number")


def parse_object(
    data: bytes, *, path: Path, place: str | None = None, takes_python_constants: bool = False
) -> dict[str, Any]:
    """The JSON object in `data`, which stands in `path` (at `place`); raises DamagedFileError for anything else.

    takes_python_constants: read bare NaN and Infinity too, as older versions of transformers wrote them.
    """
    constant = None if takes_python_constants else _refuse_constant
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_object_without_repeats, parse_constant=constant)
    except UnicodeDecodeError as error:
        found = f"{error.reason} at byte {error.start}"
        raise damaged("the JSON is not UTF-8 text", path=path, place=place, expected="UTF-8", found=found) from error
    except RecursionError as error:
        raise _too_deep(path, place) from error
    except ValueError as error:
        found = str(error)[:200]
        raise damaged("the JSON cannot be read", path=path, place=place, expected="JSON", found=found) from error
    if not isinstance(document, dict):
        found = f"a JSON {type(document).__name__}"
        raise damaged("the JSON is not an object", path=path, place=place, expected="a JSON object", found=found)
    if data.count(b"[") + data.count(b"{") > DEEPEST_NESTING and is_nested_too_deeply(document):
        raise _too_deep(path, place)
    return document


def is_nested_too_deeply(document: Any) -> bool:
    """Whether lists and objects lie more than DEEPEST_NESTING deep inside each other; found without recursion."""
    level = [document]
    for _ in range(DEEPEST_NESTING + 1):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for items in inside for item in items if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _too_deep(path: Path, place: str | None) -> DamagedFileError:
    expected = f"objects and lists at most {DEEPEST_NESTING} deep"
    found = "values nested too deeply to be read"
    return damaged("the JSON is nested too deeply", path=path, place=place, expected=expected, found=found)


def read_object(path: Path, longest_bytes: int) -> dict[str, Any]:
    """The JSON object in the file `path`, which may hold at most `longest_bytes`; bare NaN and Infinity are read."""
    return parse_object(read_bounded(path, longest_bytes), path=path, takes_python_constants=True)


def read_bounded(path: Path, longest_bytes: int) -> bytes:
    """All bytes of a small side file; a larger one is refused before it is read."""
    return _all_bytes(SourceFile(path), longest_bytes)


def read_object_in(directory: HeldDirectory, name: str, longest_bytes: int) -> dict[str, Any]:
    """As `read_object`, of the file `name` in an open directory."""
    data = read_bounded_in(directory, name, longest_bytes)
    return parse_object(data, path=directory.path / name, takes_python_constants=True)


def read_bounded_in(directory: HeldDirectory, name: str, longest_bytes: int) -> bytes:
    """As `read_bounded`, of the file `name` in an open directory."""
    return _all_bytes(directory.open(name), longest_bytes)


def _all_bytes(file: SourceFile, longest_bytes: int) -> bytes:
    try:
        if file.size_bytes > longest_bytes:
            raise damaged(
                "the file is larger than its kind ever is",
                path=file.path,
                expected=f"at most {longest_bytes} bytes",
                found=f"{file.size_bytes} bytes",
            )
        return file.read_at(0, file.size_bytes, "the file")
    finally:
        file.close()


def with_tagged_floats(value: Any) -> Any:
    """`value` with every infinite or undefined float in the tagged form, so that it is JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT_TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: with_tagged_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_tagged_floats(item) for item in value]
    return value


def without_tagged_floats(value: Any) -> Any:
    """The reverse of `with_tagged_floats`."""
    if isinstance(value, Mapping):
        if len(value) == 1 and isinstance(tag := value.get(_FLOAT_TAG), str) and tag in _TAGGED_FLOATS:
            return _TAGGED_FLOATS[tag]
        return {key: without_tagged_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_tagged_floats(item) for item in value]
    return value


def is_same(first: Any, second: Any) -> bool:
    """Whether two JSON values would be written alike: `1`, `1.0` and `true` are three values, as are 0.0 and -0.0.

    NaN is the same as NaN. The order of keys says nothing.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(is_same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(is_same, first, second))
    if isinstance(first, float) and isinstance(second, float):
        if math.isnan(first) or math.isnan(second):
            return math.isnan(first) and math.isnan(second)
        return first == second and math.copysign(1, first) == math.copysign(1, second)
    return type(first) is type(second) and bool(first == second)
