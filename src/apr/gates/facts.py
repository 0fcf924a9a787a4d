"""What the gates look at: the facts of one start from a checkpoint, filled in stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.errors import AprError, shell_word
from apr.formats.base import Checkpoint, IntegrityProblem
from apr.gates.finding import Finding
from apr.identity.types import Architecture, Kind, ResolvedConfig, Verdict
from apr.loading.ledger import LoadPlan

if TYPE_CHECKING:
    from apr.loading.buffers import BufferReport
    from apr.loading.probe import ProbeReplay
    from apr.loading.receipt import Receipt
    from apr.loading.values import TensorFacts
    from apr.storage.remote.address import Download


class Stage(StrEnum):
    """When a gate can speak: from headers, after every byte was read, with the model resident, at step 0,
    and when a checkpoint that a run wrote is reopened."""

    HEADERS = "headers"
    VALUES = "values"
    RESIDENT = "resident"
    STEP_0 = "step 0"
    SAVED = "saved"


class TokenizerFacts(NamedTuple):
    """The tokenizer a run will use. output_hash: of its ids on a fixed text, None when it was not computed."""

    place: str
    vocabulary_size: int
    output_hash: str | None


class Step0(NamedTuple):
    """The evaluation before the first update. tolerance_relative: allowed for an equal validation set."""

    loss: float
    validation_set_hash: str
    vocabulary_size: int
    tolerance_relative: float


class Fresh(NamedTuple):
    """What optimizer and schedule hold before the first update: tensors of state, and steps already counted."""

    optimizer_state_count: int
    schedule_step: int


class Written(NamedTuple):
    """What a run meant to write: identity, config and the digest of every resident tensor, by on-disk name."""

    architecture: Architecture
    config: Mapping[str, Any]
    resident_digests: Mapping[str, str]


def allow_on_the_command_line(name: str) -> str:
    """How `apr preflight` and its like let the tensor `name` through."""
    return f"--allow {shell_word(f'{name}=REASON', is_quoted=True)}"


class InitFacts(NamedTuple):
    """Everything known about one intended start; None means that stage has not been reached (or could not be).

    run_kind: what the run trains, None where nobody speaks of a run. opening_error: why no checkpoint could be opened.
    config_error: why no config could be resolved. plan_note: why there is no load plan. probe_error: why the loaded
    model could not be tried. buffer_names: stored tensors that a model in memory holds as buffers, which may be masks,
    counters or constants. retry_command: the command line to run after a repair, with `{path}` for the checkpoint.
    allow_words: how this caller lets the tensor of a name through. download: how a checkpoint on another machine comes
    to this one, None for one that is here. has_asked_zoo: whether the installed transformers was asked for classes that
    the atlas does not have.
    """

    path: Path
    run_kind: Kind | None = Kind.DECODER
    checkpoint: Checkpoint | None = None
    opening_error: AprError | None = None
    verdict: Verdict | None = None
    config: ResolvedConfig | None = None
    config_error: AprError | None = None
    plan: LoadPlan | None = None
    plan_note: str | None = None
    tokenizer: TokenizerFacts | None = None
    embedded_tokenizer_hash: str | None = None
    values: Mapping[str, TensorFacts] | None = None
    checksum_problems: tuple[IntegrityProblem, ...] | None = None
    receipt: Receipt | None = None
    source_digest: str | None = None
    buffers: BufferReport | None = None
    probe: ProbeReplay | None = None
    probe_note: str | None = None
    probe_error: AprError | None = None
    step0: Step0 | None = None
    fresh: Fresh | None = None
    written: Written | None = None
    buffer_names: frozenset[str] = frozenset()
    retry_command: str = "apr pretrain --init {path} ..."
    allow_words: Callable[[str], str] = allow_on_the_command_line
    allowed_tensors: Mapping[str, str] = MappingProxyType({})
    download: Download | None = None
    has_asked_zoo: bool = False

    @property
    def local_path(self) -> Path:
        """The path for commands that the user is to run: of the checkpoint, once it is on this machine."""
        return self.path if self.download is None else self.download.local


class Gate(NamedTuple):
    """One invariant: its public id, when it can speak, and what it says of the facts (at least one finding)."""

    id: str
    title: str
    stage: Stage
    check: Callable[[InitFacts], Iterable[Finding]]
