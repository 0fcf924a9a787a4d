"""Symbolic shapes: a tiny, bounded evaluator of integer expressions over config fields.

The grammar is `sum := product (("+" | "-") product)*`, `product := atom (("*" | "//" | "%") atom)*`,
`atom := integer | field | "(" sum ")"`. Nothing else is ever evaluated, so data from an atlas or a config cannot run
code; values beyond `LARGEST_VALUE` or of another type than int raise before anything is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from apr.errors import DamagedFileError

LARGEST_VALUE = 2**48
_TOKEN = re.compile(r"\s*(\d+|[A-Za-z_][\w.]*|//|[-+*%()])")

Node = int | str | tuple[Any, ...]


class UnevaluableError(DamagedFileError):
    """A config field that an expression needs is absent, of a wrong type, or out of bounds."""


@lru_cache(maxsize=16384)
def parse(expression: str) -> Node:
    """The syntax tree of `expression`: an int, a field name, or `(operator, left, right)`. Raises ValueError."""
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != expression.replace(" ", ""):
        raise ValueError(f"not an expression over config fields: {expression!r}")
    node, rest = _parse_sum(tuple(tokens), 0)
    if rest != len(tokens):
        raise ValueError(f"unexpected {tokens[rest]!r} in the expression {expression!r}")
    return node


def _parse_sum(tokens: tuple[str, ...], at: int) -> tuple[Node, int]:
    left, at = _parse_product(tokens, at)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        right, after = _parse_product(tokens, at + 1)
        left, at = (tokens[at], left, right), after
    return left, at


def _parse_product(tokens: tuple[str, ...], at: int) -> tuple[Node, int]:
    left, at = _parse_atom(tokens, at)
    while at < len(tokens) and tokens[at] in ("*", "//", "%"):
        right, after = _parse_atom(tokens, at + 1)
        left, at = (tokens[at], left, right), after
    return left, at


def _parse_atom(tokens: tuple[str, ...], at: int) -> tuple[Node, int]:
    if at >= len(tokens):
        raise ValueError("an expression over config fields ends too early")
    token = tokens[at]
    if token == "(":
        node, at = _parse_sum(tokens, at + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise ValueError("a bracket is not closed in an expression over config fields")
        return node, at + 1
    if token.isdigit():
        return int(token), at + 1
    if not (token[0].isalpha() or token[0] == "_"):
        raise ValueError(f"unexpected {token!r} in an expression over config fields")
    return token, at + 1


def evaluate(expression: str, fields: Mapping[str, Any]) -> int:
    """The value of `expression`, at most `LARGEST_VALUE` in magnitude; raises UnevaluableError naming the field."""
    return _evaluate(parse(expression), fields)


def _evaluate(node: Node, fields: Mapping[str, Any]) -> int:
    if isinstance(node, int):
        return node
    if isinstance(node, str):
        return checked_integer(node, fields.get(node))
    operator, left_node, right_node = node
    left, right = _evaluate(left_node, fields), _evaluate(right_node, fields)
    if operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    elif operator == "*":
        value = left * right
    elif right == 0:
        raise UnevaluableError("a config value divides by zero", where=_show(right_node), found="0")
    else:
        value = left // right if operator == "//" else left % right
    if abs(value) > LARGEST_VALUE:
        raise UnevaluableError("a config value is absurdly large", where=_show(node), found=str(value))
    return value


def checked_integer(field: str, value: object, smallest: int = 0, largest: int = LARGEST_VALUE) -> int:
    """`value` of config field `field` as an int within bounds; UnevaluableError otherwise (bool is not an int)."""
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise UnevaluableError(
            f"the config field {field} cannot be used",
            where=f"config field {field}",
            expected=f"an integer from {smallest} to {largest}",
            found="nothing" if value is None else repr(value)[:80],
            invariant="FALSIFY-APR-PRETRAIN-INIT-005",
            remedy="correct the config, or fetch an intact copy of the checkpoint",
        )
    return value


def fields_of(expression: str) -> frozenset[str]:
    """The config fields an expression reads."""
    return frozenset(_fields(parse(expression)))


def _fields(node: Node) -> list[str]:
    if isinstance(node, str):
        return [node]
    if isinstance(node, int):
        return []
    return _fields(node[1]) + _fields(node[2])


def _show(node: Node) -> str:
    if isinstance(node, tuple):
        return f"({_show(node[1])} {node[0]} {_show(node[2])})"
    return str(node)
