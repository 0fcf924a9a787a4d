"""A config.json that wants to harm its reader: nothing of it is executed, and little memory is taken for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.checkpoints import HF, healthy, write

HUGE = 10**9

# What a reader that trusts them would do: modules without end, tables without end, sums of other types.
HOSTILE = {
    "layers": {"num_hidden_layers": HUGE},
    "vocabulary": {"vocab_size": HUGE},
    "heads": {"num_attention_heads": HUGE},
    "width": {"hidden_size": HUGE},
    "positions": {"max_position_embeddings": 10**12},
    "labels": {"num_labels": HUGE},
    "a negative count": {"num_hidden_layers": -5},
    "zero heads": {"num_attention_heads": 0},
    "text for a count": {"num_hidden_layers": "4 or so"},
    "a list for a size": {"hidden_size": [64, 64]},
    "an object for a size": {"intermediate_size": {"a": 1}},
    "true for a count": {"num_hidden_layers": True},
    "infinity for a size": {"hidden_size": float("inf")},
    "a number beyond floats": {"rope_parameters": {"rope_type": "default", "rope_theta": 10**400}},
    "an expression for a size": {"hidden_size": "__import__('os').system('touch executed')"},
    "a class by path": {"architectures": ["os.system"]},
    "a type that is no name": {"model_type": "../../../etc/passwd"},
    "types of other kinds": {"architectures": [{"a": 1}], "model_type": ["qwen2"]},
    "layer types without end": {"layer_types": ["full_attention"] * 100_000},
    "deep nesting": {"text_config": json.loads("[" * 400 + "]" * 400)},
}

MEMORY_BYTES = 1 << 30

HEADERS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from pathlib import Path
from apr.gates.road import examine
for path in sorted(Path(sys.argv[1]).iterdir()):
    examination = examine(path)
    assert not examination.refusals or all(finding.message for finding in examination.refusals)
    print(path.name, examination.is_accepted, *dict.fromkeys(finding.id for finding in examination.refusals))
assert "torch" not in sys.modules
"""

# torch alone reserves several gigabytes of addresses, so what it adds is bounded.
RESIDENT = """
import resource, sys
import torch, transformers
from transformers import Qwen2ForCausalLM
from pathlib import Path
from apr.gates.road import RoadOptions, deepen, examine, try_load
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    model, examination = try_load(examine(path, RoadOptions(may_use_zoo=True)))
    ids = dict.fromkeys(finding.id for finding in examination.refusals)
    print(path.name, examination.is_accepted, *ids)
"""

HARMLESS = {"positions", "labels", "layer types without end", "deep nesting"}
"""What no tensor and no gate contradicts from headers alone; nothing is made of it there."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """One directory for each hostile config; the code that `auto_map` names stands beside it."""
    home = tmp_path_factory.mktemp("hostile")
    for name, values in HOSTILE.items():
        place = home / name
        place.mkdir()
        draft = healthy("qwen2")
        draft.recorded = type(draft.recorded)()
        draft.config |= {
            "auto_map": {"AutoConfig": "harm.Config", "AutoModelForCausalLM": "harm.Model"},
            "trust_remote_code": True,
            **values,
        }
        path = write(draft, HF, place)
        (path / "harm.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
        for each in path.iterdir():
            each.rename(place / each.name)
        path.rmdir()
    return home


def _ask(code: str, home: Path, scratch: Path) -> dict[str, list[str]]:
    command = [sys.executable, "-c", code, str(home), str(MEMORY_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (scratch / "executed").exists()
    answers = {}
    for name in HOSTILE:
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
        answers[name] = line.removeprefix(f"{name} ").split()
    return answers


def test_headers_refuse_hostile_values_in_bounded_memory(hostile, tmp_path):
    answers = _ask(HEADERS, hostile, tmp_path)
    accepted = {name for name, (answer, *_) in answers.items() if answer == "True"}
    assert accepted <= HARMLESS


def test_a_load_refuses_or_stays_within_what_the_file_explains(hostile, tmp_path):
    answers = _ask(RESIDENT, hostile, tmp_path)
    accepted = {name for name, (answer, *_) in answers.items() if answer == "True"}
    assert accepted <= HARMLESS
