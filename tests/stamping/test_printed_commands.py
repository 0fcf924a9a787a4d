"""The commands that messages of a stamp print are run as they stand."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from apr.convert import publishing
from apr.errors import InputOutputError, NotFoundError, RefusedError, shell_word
from apr.formats.json_text import is_same
from apr.formats.registry import open_checkpoint
from apr.quality.lint import lint_checkpoint
from apr.stamping.changes import StampChanges, parse_setting
from apr.stamping.patch import stamp_file
from apr.stamping.recipe import setting_text
from apr.stamping.signatures import sign_command
from tests.stamping.conftest import LLAMA, Lie

NAMES = ["-d.apr", "--undo", "a name.apr", "it's.apr", "$HOME.apr"]


def remedy_of(path: Path, changes: StampChanges, **options: Any) -> list[str]:
    """The command that the refusal of a lie prints, as a shell splits it."""
    with pytest.raises(RefusedError) as caught:
        stamp_file(path, changes, **options)
    words = shlex.split(str(caught.value.remedy))
    assert words[:2] == ["apr", "stamp"]
    return words[1:]


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_runs_whatever_the_names(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lie = make_lie("apr")
    monkeypatch.chdir(lie.path.parent)
    lie.path.rename(name)
    arguments = remedy_of(Path(name), LLAMA._replace(license="MIT"), in_place=True)
    assert run(arguments) == 0
    with open_checkpoint(Path(name)) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "Qwen2ForCausalLM"


def test_the_recipe_keeps_what_the_user_asked_for(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    output = lie.path.with_name("-out.apr")
    output.write_bytes(b"in the way")
    settings = {"x": float("inf"), "y": {"a": [float("-inf"), 0.5]}, "z": "Infinity"}
    changes = LLAMA._replace(settings=settings)
    arguments = remedy_of(lie.path, changes, output=output, force=True, reason="it's wrong")
    assert run(arguments) == 0
    with open_checkpoint(output) as checkpoint:
        assert checkpoint.recorded.history[-1]["reason"] == "it's wrong"
        assert checkpoint.metadata["z"] == "Infinity"
        assert checkpoint.metadata["hf_model_type"] == "qwen2"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), [{"a b": float("inf")}, None, True, 1, 1.0, 'a "b"']])
def test_a_setting_is_printed_as_it_is_read(value: Any) -> None:
    _, read = parse_setting(f"x={setting_text(value)}")
    assert is_same(read, value)


@pytest.mark.parametrize("name", NAMES)
def test_lint_and_sign_name_paths_that_the_shell_takes(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lie = make_lie("apr")
    stamp_file(lie.path, lie.repair, in_place=True)
    monkeypatch.chdir(lie.path.parent)
    lie.path.rename(name)
    with open_checkpoint(Path(name)) as checkpoint:
        (issue,) = [
            each for each in lint_checkpoint(checkpoint) if "licence" in each.message and "data" not in each.message
        ]
    assert run([word.replace("SPDX", "MIT") for word in shlex.split(issue.suggestion)[1:]]) == 0
    words = shlex.split(sign_command(Path(name), Path("-s.sig")))
    assert [Path(words[2]), Path(words[-1])] == [Path(name), Path("-s.sig")]
    assert not any(word.startswith("-") for word in (words[2], words[-1]))


def test_the_directory_that_is_missing_is_made_as_printed(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    output = lie.path.parent / "a folder; true" / "out.apr"
    with pytest.raises(NotFoundError) as caught:
        stamp_file(lie.path, lie.repair, output)
    assert shlex.split(str(caught.value.remedy)) == ["mkdir", "-p", str(output.parent)]


def test_a_read_only_file_is_made_writable_as_printed(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    path = lie.path.rename(lie.path.with_name("a model.apr"))
    path.chmod(0o444)
    with pytest.raises(InputOutputError, match="read-only") as caught:
        stamp_file(path, lie.repair, in_place=True)
    command, _, rest = str(caught.value.remedy).partition(",")
    assert shlex.split(command) == ["chmod", "u+w", str(path)]
    assert rest == " or use -o OUT"


@pytest.mark.parametrize(
    ("flags", "owner", "expected"),
    [(os.ST_RDONLY, None, "mount its file system"), (0, None, "chattr -i "), (0, 12345, "run this as its owner")],
)
def test_no_mode_is_advised_where_none_helps(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, flags: int, owner: int | None, expected: str
) -> None:
    """A read-only mount, an immutable file, another user's file: their modes would let the owner write."""
    lie = make_lie("apr")
    real = os.statvfs(lie.path)
    monkeypatch.setattr(publishing.os, "access", lambda path, mode: False)
    monkeypatch.setattr(publishing.os, "statvfs", lambda path: os.statvfs_result([*real[:8], flags, real[9], 0]))
    if owner is not None:
        monkeypatch.setattr(publishing.os, "geteuid", lambda: owner)
    with pytest.raises(InputOutputError, match="read-only") as caught:
        stamp_file(lie.path, lie.repair, in_place=True)
    assert expected in str(caught.value.remedy)
    assert "chmod" not in str(caught.value.remedy)


def test_a_word_of_a_command_is_no_option_and_one_word(tmp_path: Path) -> None:
    assert shell_word("model.apr") == "model.apr"
    assert shell_word(Path("-d.apr")) == "./-d.apr"
    assert shell_word("/a b/-c") == "'/a b/-c'"
