"""The load plan and its account: which file tensor fills which model tensor, and what is left over on either side."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from apr.formats.dtypes import DType
from apr.identity.types import Architecture, ExpectedTensor, ResolvedConfig


class Rule(StrEnum):
    """The only reasons a file tensor may stay unused, or a model tensor unfilled; each names its ground."""

    TIED_ABSENT = "tied: shares the bytes of another tensor, so the file need not hold it"
    TIED_PLACEHOLDER = "tied: stored with zero bytes, meaning the bytes of the tensor it is tied to"
    TIED_FILLS = "tied: the file holds the tensor under this name, and it fills the one it is tied to as well"
    TIED_COPY = "tied: stored once more; must be byte-equal to the tensor it is tied to"
    SAVED_BUFFER = "a buffer that older versions saved; the model recomputes it"
    SCALE = "the scale of an 8-bit weight, which it is multiplied with on the way into the model"
    CONTAINER_INTERNAL = "belongs to the container (training state, embedded files), not to the model"
    LEFT_OUT = "left out by the class's own declaration"
    OF_THE_ADAPTER = "answered for by the adapter that was named over the model"
    ALLOWED_BY_USER = "allowed by the user"


class Ruling(NamedTuple):
    """One tensor covered by a named rule. partner: the tensor it is tied to; reason: the user's words, or what the
    class declares."""

    name: str
    rule: Rule
    partner: str | None = None
    reason: str | None = None


class ShapeConflict(NamedTuple):
    """A tensor that both sides name and whose shapes differ."""

    name: str
    expected: tuple[int, ...]
    found: tuple[int, ...]


class Assignment(NamedTuple):
    """One pair of the bijection: stored tensor to model tensor (on-disk naming), with the declared transform.

    cast_from, cast_to: equal when the bytes go in unchanged. scale_name: the stored tensor it is multiplied with.
    """

    stored_name: str
    model_name: str
    cast_from: DType
    cast_to: DType
    scale_name: str | None = None

    @property
    def is_bit_exact(self) -> bool:
        return self.cast_from == self.cast_to and self.scale_name is None


class Ledger(NamedTuple):
    """The plan's account. Anything in `unfilled`, `unused`, `shape_conflicts` or `raw_codes` refuses.

    filled: model tensors that get file bytes. unfilled: model tensors nothing in the file fills. unused: file
    tensors the model never asks for. ruled: covered by a named rule. raw_codes: stored tensors whose numbers are
    codes that mean nothing without a scale the file lacks.
    """

    filled: tuple[str, ...]
    unfilled: tuple[str, ...]
    unused: tuple[str, ...]
    ruled: tuple[Ruling, ...]
    shape_conflicts: tuple[ShapeConflict, ...]
    raw_codes: tuple[str, ...] = ()

    @property
    def tied(self) -> tuple[Ruling, ...]:
        ties = {Rule.TIED_ABSENT, Rule.TIED_PLACEHOLDER, Rule.TIED_FILLS, Rule.TIED_COPY}
        return tuple(ruling for ruling in self.ruled if ruling.rule in ties)

    @property
    def balances(self) -> bool:
        return not (self.unfilled or self.unused or self.shape_conflicts or self.raw_codes)


class Target(NamedTuple):
    """The model a checkpoint would be loaded into: class, config and every tensor it wants under its on-disk name.

    origin: "atlas" (symbolic, no torch) or "meta device" (the class was built without memory).
    """

    architecture: Architecture
    config: ResolvedConfig
    expected: Mapping[str, ExpectedTensor]
    origin: str


class LoadPlan(NamedTuple):
    """What would be loaded where, made from headers alone, before any tensor byte is read.

    added_prefix: what every stored name gets before it to be a name of the target, which is empty where they agree.
    """

    target: Target
    dtype: DType
    assignments: tuple[Assignment, ...]
    ledger: Ledger
    added_prefix: str = ""
