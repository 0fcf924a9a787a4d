"""What a row of the corpus is: a fault with the gate that has to refuse it, or a healthy twin that looks like one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.faults.checkpoints import APR, CONTAINERS, HF, SHARDED, Draft, healthy
from tests.faults.edits import Edit

ARCH, AGREE, COVERAGE, SHAPE = (
    "INV-INIT-ARCH-MATCH-001",
    "INV-STAMP-AGREE-001",
    "INV-INIT-COVERAGE-001",
    "INV-INIT-SHAPE-001",
)
CONFIG, VALUES, INTEGRITY = "INV-INIT-CONFIG-001", "INV-INIT-VALUES-001", "INV-FILE-INTEGRITY-001"
RECEIPT, BUFFERS, PROBE, LINEAGE = (
    "INV-INIT-RECEIPT-001",
    "INV-INIT-BUFFERS-001",
    "INV-INIT-PROBE-001",
    "INV-LINEAGE-001",
)
EXISTS, RECOGNISED, PRESENT = (f"FALSIFY-APR-PRETRAIN-INIT-00{number}" for number in (3, 4, 5))
FITS, SAME = "FALSIFY-APR-PRETRAIN-ARCH-009", "FALSIFY-APR-PRETRAIN-ARCH-010"

RECORDING = (HF, SHARDED, APR)
DIRECTORIES = (HF, SHARDED)
HEADERS, DEEP, LOAD = "headers", "deep", "load"


@dataclass(frozen=True)
class Fault:
    """One planted defect. says: words of the refusal. base, options: the healthy checkpoint it starts from."""

    letter: str
    name: str
    edit: Edit
    expected_id: str
    stage: str = HEADERS
    says: str = ""
    base: str = "qwen2"
    containers: tuple[str, ...] = CONTAINERS
    options: dict[str, Any] = field(default_factory=dict)

    def draft(self) -> Draft:
        draft = healthy(self.base, **self.options)
        self.edit(draft)
        return draft


@dataclass(frozen=True)
class Twin:
    """A healthy checkpoint that looks like one of the faults. letter: the class it stands beside."""

    letter: str
    name: str
    edit: Edit = lambda draft: None
    base: str = "qwen2"
    containers: tuple[str, ...] = RECORDING
    options: dict[str, Any] = field(default_factory=dict)
    allowed: dict[str, str] = field(default_factory=dict)

    def draft(self) -> Draft:
        draft = healthy(self.base, **self.options)
        self.edit(draft)
        return draft


TIED = {"tie_word_embeddings": True}
THIRD = r"layers\.3\."
QKV = r"self_attn\.[qkv]_proj"
