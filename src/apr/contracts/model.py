"""What a contract file may say: the schema of `contracts/*.yaml`; unknown keys are errors.

Importing this module imports pydantic, so commands import it inside functions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9]*(-[A-Z0-9]+)+$", max_length=80)]
SemanticVersion = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Sentence = Annotated[str, StringConstraints(min_length=10, strip_whitespace=True)]
Title = Annotated[str, StringConstraints(min_length=3, max_length=90, strip_whitespace=True)]


class AppliesTo(StrEnum):
    """The paths a clause guards: kinds of files, commands, and devices."""

    APR = "apr"
    HF = "hf"
    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    PRETRAIN = "pretrain"
    PREFLIGHT = "preflight"
    IMPORT = "import"
    EXPORT = "export"
    STAMP = "stamp"
    INSPECT = "inspect"
    LINEAGE = "lineage"
    TOKENIZE = "tokenize"
    CPU = "cpu"
    CUDA = "cuda"
    COMMAND_LINE = "command line"


class ContractKind(StrEnum):
    """What sort of promise a contract makes."""

    TRAINING_PRECONDITION = "training-precondition"
    TRAINING_LOOP = "training-loop"
    CONVERSION = "conversion"
    REPAIR = "repair"
    PROVENANCE = "provenance"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Falsifier(_Strict):
    """An experiment that would show a clause to be false. prediction: what is seen while the clause holds."""

    id: Identifier
    prediction: Sentence


class Clause(_Strict):
    """One promise. rule: one sentence. gate: module in `apr.gates` that enforces it, None for other means.

    refusal: what it means for the user when the clause is the one that refuses. remedy: what to do then.
    aliases: other ids of the same promise that the founding project uses.
    """

    id: Identifier
    title: Title
    rule: Sentence
    why: Sentence
    refusal: Sentence
    remedy: Sentence
    applies_to: tuple[AppliesTo, ...] = Field(min_length=1)
    ship_blocking: bool
    gate: ModuleName | None = None
    falsifiers: tuple[Falsifier, ...] = Field(min_length=1)
    aliases: tuple[Identifier, ...] = ()
    see_also: tuple[Identifier, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        """Every id that means this clause: its own, its aliases', its falsifiers'."""
        return frozenset({self.id, *self.aliases, *(each.id for each in self.falsifiers)})


class NotAdopted(_Strict):
    """An id of the founding project that this contract leaves out, so that nobody gives it a second meaning."""

    id: Identifier
    reason: Sentence


class Contract(_Strict):
    """A contract file. contract: equals the file's name without `.yaml`. There is no status key on purpose."""

    contract: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*-v[1-9]\d*$")]
    version: SemanticVersion
    kind: ContractKind
    summary: Sentence
    motivation: Sentence
    references: tuple[str, ...] = Field(min_length=1)
    depends_on: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = Field(min_length=1)
    not_adopted: tuple[NotAdopted, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Clause ids, then aliases and the falsifier ids that differ from their clause's, in file order."""
        own = [clause.id for clause in self.clauses]
        others = [each for clause in self.clauses for each in clause.aliases]
        others += [each.id for clause in self.clauses for each in clause.falsifiers if each.id != clause.id]
        return tuple(own + others)
