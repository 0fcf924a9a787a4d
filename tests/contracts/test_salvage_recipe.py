"""Every command of `docs/recipes/salvage.md` is run, in order, on small real checkpoints with a false label."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.contracts.checkpoints import save, stored_bytes
from tests.tiny_models import tiny_model

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "salvage.md"
BLOCK = re.compile(r"<!-- exit: (\d+) -->\n```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Done:
    """One finished block of the recipe."""

    exit_code: int
    output: str


def blocks() -> list[tuple[int, str]]:
    return [(int(code), text) for code, text in BLOCK.findall(RECIPE.read_text(encoding="utf-8"))]


def sh(script: str, folder: Path) -> Done:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return Done(done.returncode, done.stdout + done.stderr)


def test_the_recipe_works_as_written(workplace: Path) -> None:
    done = []
    for expected, script in blocks():
        done.append(sh(script, workplace))
        assert done[-1].exit_code == expected, f"{script}\n{done[-1].output}"
    table, inspected, refused, stamped, proven, repaired, resumed = (each.output for each in done)
    assert "epoch-000.apr" in table
    assert "epoch-001.apr" in table
    assert "contradiction" in inspected
    for said in ("INV-INIT-ARCH-MATCH-001", "apr stamp", "Qwen2ForCausalLM", "{q,k,v}_proj.bias (6)"):
        assert said in refused
    assert "epoch-001.apr" in stamped
    assert "REFUSED" not in proven
    assert "match" in repaired
    assert "step 0: validation loss" in resumed
    assert "below ln(320) = 5.7683" in (workplace / "runs" / "proof" / "run.json").read_text()
    before, after = (stored_bytes(workplace / name / "epoch-001.apr") for name in ("checkpoints", "repaired"))
    assert before == after


def test_the_stamp_loop_stops_at_a_stranger(workplace: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    save(tiny_model("llama", tie_word_embeddings=False), tmp_path / "checkpoints" / "stranger.apr")
    loop = next(script for _, script in blocks() if "apr stamp" in script)
    done = sh(loop, tmp_path)
    assert done.exit_code == 5
    assert "stranger.apr" in done.output
    assert "INV-STAMP-TRUTH-001" in done.output
    assert not list((tmp_path / "repaired").iterdir())


def test_every_block_of_commands_on_the_page_is_run() -> None:
    assert len(blocks()) == RECIPE.read_text().count("```sh") == 7
