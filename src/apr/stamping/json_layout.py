"""How a JSON file is laid out, so that one whose values change keeps its looks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from apr.formats.json_text import with_tagged_floats

_FIRST_KEY = re.compile(rb"\{\s*?\n([ \t]*)\"")


class Layout(NamedTuple):
    """indent: what stands before the keys of the outermost object, None for a file in one line. is_ascii: other
    characters are escaped."""

    indent: str | None = "  "
    newline: str = "\n"
    separators: tuple[str, str] = (",", ": ")
    ends_with_newline: bool = True
    is_ascii: bool = False


TRANSFORMERS_LAYOUT = Layout()
"""As transformers lays out its JSON files, but for the order of keys, which stays."""


def layout_of(data: bytes | None) -> Layout:
    """The layout of the JSON file with `data`; where there is none, or no key in it, that of transformers."""
    if data is None or b'"' not in data:
        return TRANSFORMERS_LAYOUT
    first_key = _FIRST_KEY.match(data.lstrip())
    is_compact = b'":' in data and b'": ' not in data
    indent = first_key[1].decode() if first_key is not None else None
    return Layout(
        indent=indent,
        newline="\r\n" if b"\r\n" in data else "\n",
        separators=("," if indent is not None or is_compact else ", ", ":" if is_compact else ": "),
        ends_with_newline=data.endswith(b"\n"),
        is_ascii=data.isascii() and b"\\u" in data,
    )


def json_file(document: Mapping[str, Any], layout: Layout = TRANSFORMERS_LAYOUT) -> bytes:
    """`document` in that layout, in the order of its keys.

    Half of a surrogate pair, which a JSON text can hold and UTF-8 cannot, makes every other character escaped too.
    """
    tagged = with_tagged_floats(document)
    text = _text(tagged, layout, is_ascii=layout.is_ascii)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = _text(tagged, layout, is_ascii=True).encode()
    return data


def _text(document: Any, layout: Layout, *, is_ascii: bool) -> str:
    text = json.dumps(
        document, indent=layout.indent, separators=layout.separators, ensure_ascii=is_ascii, allow_nan=False
    )
    return text.replace("\n", layout.newline) + (layout.newline if layout.ends_with_newline else "")
