"""`apr stamp` on the command line: answers, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.cli.main import run
from tests.stamping.conftest import Lie, files_below

IDENTITY = ["--architecture", "qwen2", "--hf-architecture", "Qwen2ForCausalLM", "--hf-model-type", "qwen2"]


@pytest.fixture
def apr(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`apr("stamp", path)` gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        exit_code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return exit_code, printed.out, printed.err

    return call


def test_the_json_answer_has_the_founding_projects_keys_and_ours(apr, make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr-typed-only")
    exit_code, stdout, _ = apr("stamp", lie.path, *IDENTITY, "--license", "mit", "-o", lie.output(), "--json")
    document = json.loads(stdout)
    assert exit_code == 0
    assert document["schema"] == "apr.stamp/1"
    assert {key: document[key] for key in ("command", "input", "output")} == {
        "command": "stamp",
        "input": str(lie.path),
        "output": str(lie.output()),
    }
    assert document["input_bytes"] == lie.path.stat().st_size
    assert document["output_bytes"] == lie.output().stat().st_size
    assert document["tensor_count"] == 27
    assert document["header_flags_bits"] == 0x0400
    assert document["stamped"] == {
        "license": "MIT",
        "data_source": None,
        "data_license": None,
        "hf_architecture": "Qwen2ForCausalLM",
        "hf_model_type": "qwen2",
        "architecture": "qwen2",
    }
    assert {finding["id"] for finding in document["findings"]} >= {"INV-STAMP-TRUTH-001", "INV-STAMP-BYTES-001"}
    assert document["history_entry"]["changes"] == document["changes"]


def test_a_repair_takes_the_score_from_40_to_60(apr, make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr-typed-only")
    apr("stamp", lie.path, *IDENTITY, "-o", lie.output())
    scores = []
    for path in (lie.path, lie.output()):
        _, stdout, _ = apr("inspect", path, "--quality", "--json")
        scores.append(json.loads(stdout)["quality"])
    assert [score["score"] for score in scores] == [40, 60]
    assert [score["breakdown"]["hf_identity"] for score in scores] == [0, 20]


def test_a_lie_is_refused_with_exit_5_and_the_recipe_works(apr, make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    exit_code, stdout, stderr = apr("stamp", lie.path, "--hf-model-type", "qwen2", "-o", lie.output())
    assert (exit_code, stdout) == (5, "")
    recipe = next(line.split("next:")[1] for line in stderr.splitlines() if "next:" in line).split()
    assert recipe[0] == "apr"
    assert apr(*recipe[1:])[0] == 0
    assert apr("preflight", lie.output())[0] == 0


def test_exit_codes_of_what_can_go_wrong(apr, make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    (tmp_path / "foreign").write_bytes(b"not a checkpoint at all" * 10)
    output = lie.output()
    for exit_code, arguments in (
        (2, [lie.path, "-o", output]),
        (2, [lie.path, *IDENTITY]),
        (2, [lie.path, *IDENTITY, "-o", lie.path]),
        (2, [lie.path, *IDENTITY, "--force-untrue", " ", "-o", output]),
        (2, [lie.path, "--set", "x=1", "--set", "x=2", "-o", output]),
        (3, [tmp_path / "missing.apr", *IDENTITY, "-o", output]),
        (4, [tmp_path / "foreign", *IDENTITY, "-o", output]),
        (5, [lie.path, "--license", "unknown", "-o", output]),
        (5, [lie.path, "--license", "MIT", "-o", output]),
    ):
        assert apr("stamp", *arguments)[0] == exit_code, arguments
    assert not output.exists()


def test_a_dry_run_shows_before_and_after(apr, make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("hf")
    before = files_below(lie.path)
    exit_code, stdout, _ = apr(
        "stamp",
        lie.path,
        "--hf-architecture",
        "Qwen2ForCausalLM",
        "--hf-model-type",
        "qwen2",
        "--in-place",
        "--dry-run",
    )
    assert exit_code == 0
    assert "would stamp" in stdout
    assert '["LlamaForCausalLM"]  ["Qwen2ForCausalLM"]' in stdout
    assert files_below(lie.path) == before


def _limited() -> None:
    """A real refusal of the operating system: no file of this process may grow beyond 64 KiB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("command", ["stamp -o", "stamp --in-place", "import", "export"])
def test_when_the_system_refuses_to_write_the_exit_code_is_7_and_nothing_is_left(
    honest_qwen2: Path, tmp_path: Path, command: str
) -> None:
    from apr.convert.importing import import_checkpoint

    folder = tmp_path / "work"
    folder.mkdir()
    source = import_checkpoint(honest_qwen2, folder / "x.apr").output
    before = files_below(folder)
    arguments = {
        "stamp -o": ["stamp", source, "--license", "MIT", "-o", folder / "y.apr"],
        "stamp --in-place": ["stamp", source, "--license", "MIT", "--in-place"],
        "import": ["import", honest_qwen2, "-o", folder / "y.apr"],
        "export": ["export", source, "-o", folder / "y"],
    }[command]
    words = [sys.executable, "-m", "apr.cli.main", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=_limited)
    assert done.returncode == 7, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_below(folder) == before


def test_stamp_import_and_export_need_neither_torch_nor_numpy(honest_qwen2: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from apr.cli.main import run; import os; os.chdir(sys.argv[2]);"
        "codes = [run(words) for words in (['import', sys.argv[1], '-o', 'x.apr'],"
        " ['stamp', 'x.apr', '--license', 'MIT', '--in-place'], ['export', 'x.apr', '-o', 'y'])];"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(honest_qwen2), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_control_characters_from_a_file_do_not_reach_the_terminal(apr, make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    apr("stamp", lie.path, *IDENTITY, "--set", 'note="\\u001b[31mred"', "--in-place")
    exit_code, stdout, stderr = apr("stamp", lie.path, "--set", 'note="plain"', "--in-place")
    assert exit_code == 0
    assert "\x1b[31m" not in stdout + stderr
    assert "\\x1b[31mred" in stdout
