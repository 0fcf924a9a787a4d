"""Typed identity: what a checkpoint claims, what its tensors show, and the verdict of one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from apr.formats.base import Stamp


class Kind(StrEnum):
    """How a model predicts; decides which runs it can start.

    DECODER: the next token. ENCODER: masked tokens, or states that see both sides. SEQ2SEQ: a target from a source.
    CLASSIFICATION: labels, spans or a reward. BASE: a decoder without its head, which gives states.
    """

    DECODER = "decoder"
    ENCODER = "encoder"
    SEQ2SEQ = "seq2seq"
    CLASSIFICATION = "classification"
    BASE = "base"


class Naming(StrEnum):
    """Whose names an architecture's tensors bear on disk: those of Hugging Face's classes, or those of llama.cpp."""

    HUGGING_FACE = "hf"
    GGUF = "gguf"


class Architecture(NamedTuple):
    """One member of a closed vocabulary of architectures (the atlas): `Qwen2ForCausalLM`, `qwen2`.

    Of a GGUF architecture `model_type` is its name in `general.architecture`, and there is no class name.
    """

    class_name: str
    model_type: str
    kind: Kind
    naming: Naming = Naming.HUGGING_FACE

    def __str__(self) -> str:
        return f"{self.model_type} ({self.class_name or 'GGUF'})"

    @property
    def short_name(self) -> str:
        """The class name, or of a GGUF architecture the only name it has."""
        return self.class_name or self.model_type


class Claim(NamedTuple):
    """The stamps of one checkpoint, read into the vocabulary.

    architecture: what the stamps agree on, None when there is none, or they disagree, or one is not known.
    readings: each stamp with the architectures it can mean (a class name means one; a model type may mean several
    heads). unknown: stamps whose value is not in the vocabulary. disagreements: pairs that cannot both be true.
    """

    architecture: Architecture | None
    readings: tuple[tuple[Stamp, tuple[Architecture, ...]], ...]
    unknown: tuple[Stamp, ...]
    disagreements: tuple[tuple[Stamp, Stamp], ...]


class Candidate(NamedTuple):
    """An architecture held against the tensors: names it wants and lacks, names in the file it does not know.

    unfilled, unused: folded names (`model.layers.{0-23}.self_attn.q_proj.bias`); shape_conflicts: readable lines.
    dimensions: config fields solved from shapes, where decidable.
    """

    architecture: Architecture
    unfilled: tuple[str, ...]
    unused: tuple[str, ...]
    shape_conflicts: tuple[str, ...]
    dimensions: Mapping[str, int]

    @property
    def explains_all(self) -> bool:
        return not (self.unfilled or self.unused or self.shape_conflicts)


class Evidence(NamedTuple):
    """Every architecture that explains all tensors, and the closest one that does not (`runner_up`)."""

    candidates: tuple[Candidate, ...]
    runner_up: Candidate | None
    reasons: tuple[str, ...]


class VerdictKind(StrEnum):
    MATCH = "match"
    CONTRADICTION = "contradiction"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"


class Verdict(NamedTuple):
    """Claim held against evidence. AMBIGUOUS: name twins fit as well as the claim, and only values, the recorded
    config or behaviour can tell them apart."""

    kind: VerdictKind
    claim: Claim
    evidence: Evidence
    reasons: tuple[str, ...]


class ExpectedTensor(NamedTuple):
    """A tensor an architecture wants on disk. tied_to: name whose bytes it shares, then it may be absent.

    is_optional: may be absent or present without changing the model (old saved buffers).
    """

    name: str
    shape: tuple[int, ...]
    tied_to: str | None = None
    is_optional: bool = False


class Origin(StrEnum):
    """Where a config value comes from, best first."""

    RECORDED = "recorded"
    TYPED = "typed metadata"
    TENSORS = "solved from tensors"
    CLASS_DEFAULT = "default of the config class"


class ResolvedConfig(NamedTuple):
    """The config a model is built from, with the origin of every value; `missing`: facts that nobody recorded.

    values: complete Hugging Face config of `architecture` (the config class can be built from it). conflicts:
    recorded facts that contradict each other or the tensors, as readable lines.
    """

    architecture: Architecture
    values: Mapping[str, Any]
    origins: Mapping[str, Origin]
    missing: tuple[str, ...]
    conflicts: tuple[str, ...] = ()
