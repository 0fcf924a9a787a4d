"""The expression evaluator: exact, small, and deaf to anything hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr.errors import DamagedFileError
from apr.identity.shapes import LARGEST_VALUE, UnevaluableError, evaluate, fields_of, parse


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("hidden", 12),
        ("3*hidden", 36),
        ("2*kv*dim+hidden", 36),
        ("hidden-2*kv", 8),
        ("(hidden+15)//16", 1),
        ("hidden//dim*kv", 4),
        ("(hidden+1)%5", 3),
    ],
)
def test_evaluates(expression: str, value: int) -> None:
    assert evaluate(expression, {"hidden": 12, "kv": 2, "dim": 6}) == value


def test_names_its_fields() -> None:
    assert fields_of("2*text_config.heads*dim+15") == {"text_config.heads", "dim"}


@pytest.mark.parametrize("hostile", [None, "7", 7.0, True, -1, 10**18, [7], {}])
def test_an_unusable_value_names_the_field(hostile: object) -> None:
    with pytest.raises(UnevaluableError) as error:
        evaluate("2*hidden_size", {"hidden_size": hostile})
    assert "hidden_size" in str(error.value)
    assert isinstance(error.value, DamagedFileError)


def test_products_are_bounded() -> None:
    with pytest.raises(UnevaluableError, match="absurdly large"):
        evaluate("a*a", {"a": LARGEST_VALUE})
    with pytest.raises(UnevaluableError, match="divides by zero"):
        evaluate("a//b", {"a": 4, "b": 0})


@pytest.mark.parametrize(
    "text", ["", "a+", "(a", "a)", "a b", "a.__class__()", "__import__('os')", "a**b", "1/2", "lambda"]
)
def test_only_the_grammar_is_an_expression(text: str) -> None:
    if text == "lambda":
        assert parse(text) == "lambda"
        return
    with pytest.raises(ValueError, match="expression"):
        parse(text)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**4))
def test_agrees_with_python(a: int, b: int, c: int) -> None:
    assert evaluate("3*a+b//c-a%c", {"a": a, "b": b, "c": c}) == 3 * a + b // c - a % c
