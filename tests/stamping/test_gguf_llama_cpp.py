"""llama.cpp itself loads stamped files, and computes with them what it computed before.

Needs its bindings, which are no dependency of the project: pip install xllamacpp (tried with 2026.10.11549).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.gguf_models import write_gguf

pytest.importorskip("xllamacpp")

COMPLETE = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.fit_params = sys.argv[1], 64, 1, False, False
asked = {"prompt": "import numpy", "max_tokens": 6, "temperature": 0, "logprobs": 3}
answer = xllamacpp.Server(params).handle_completions(asked)
print("ANSWER" + json.dumps([[each["id"], each["logprob"]] for each in answer["choices"][0]["logprobs"]["content"]]))
"""


def answer_of(path: Path) -> list[list[float]]:
    """Tokens and log probabilities with which llama.cpp completes a text."""
    done = subprocess.run([sys.executable, "-c", COMPLETE, str(path)], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("ANSWER")), None)
    assert line is not None, done.stderr[-2000:]
    found: list[list[float]] = json.loads(line.removeprefix("ANSWER"))
    return found


@pytest.mark.interop
@pytest.mark.slow
def test_llama_cpp_answers_from_a_stamped_file_as_from_the_one_before(
    honest_qwen2: Path, tokenizer_directory: Path, tmp_path: Path
) -> None:
    path = write_gguf(honest_qwen2, tmp_path / "x.gguf", "qwen2", tokenizer=tokenizer_directory)
    before = answer_of(path)
    assert len(before) >= 4
    settings: dict[str, Any] = {"tokenizer.chat_template": "{{ messages }}" * 2000, "general.tags": ["a", "b"]}
    stamp_file(path, StampChanges(license="MIT", data_source="the data", settings=settings), in_place=True)
    assert answer_of(path) == before
    stamp_file(path, StampChanges("llama"), in_place=True, force_reason="a planted lie")
    assert answer_of(path) != before  # Loaded without a word, and rotated another way.
    stamp_file(path, StampChanges("qwen2"), in_place=True)
    assert answer_of(path) == before
    stamp_file(path, StampChanges(settings={"qwen2.rope.freq_base": 500.0}), in_place=True)
    assert answer_of(path) != before
    for _ in range(4):
        stamp_file(path, StampChanges(), in_place=True, undo=True)
    assert answer_of(path) == before
