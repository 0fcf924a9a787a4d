"""What INV-INIT-VALUES-001 says of tensors that the class ties and the file stores apart."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from apr.errors import AprError, shell_word
from apr.gates.facts import InitFacts
from apr.gates.finding import Finding, Status
from apr.gates.words import VALUES_ID
from apr.identity.left_out import left_out
from apr.identity.ties import TIE_FLAG
from apr.identity.types import Kind, Naming
from apr.loading.ledger import Rule
from apr.loading.plan import make_plan
from apr.loading.target import make_target

# The matrix that gives the scores of the next token, by the names of the zoo's classes.
HEADS = ("lm_head", "embed_out", "output_projection", "proj_out", "head")
KINDS_WITH_A_HEAD = frozenset({Kind.DECODER, Kind.SEQ2SEQ})


def unequal_ties(facts: InitFacts) -> Iterable[Finding]:
    """Tied pairs whose two copies differ, each with what can be done about it."""
    assert facts.plan is not None
    assert facts.values is not None
    stored = {each.model_name: each.stored_name for each in facts.plan.assignments}
    for ruling in facts.plan.ledger.ruled:
        if ruling.rule is not Rule.TIED_COPY or ruling.partner is None:
            continue
        own = facts.values.get(ruling.name)
        partner = facts.values.get(stored.get(ruling.partner, ruling.partner))
        if own is not None and partner is not None and own.blake3_hex != partner.blake3_hex:
            yield Finding(
                VALUES_ID,
                Status.REFUSE,
                f"the config ties {ruling.name} to {ruling.partner}, but the file holds different values for them",
                expected=f"equal bytes, blake3 {partner.blake3_hex}",
                found=f"blake3 {own.blake3_hex}",
                remedy=_remedy(facts, ruling.name, ruling.partner),
            )


def _remedy(facts: InitFacts, name: str, partner: str) -> str:
    if _may_be_untied(facts, name):
        return (
            "if the head was trained apart, the config must say so: "
            f"apr stamp {shell_word(facts.local_path)} --set {TIE_FLAG}=false -o OUT"
        )
    return f"one of the two is wrong, and the file does not tell which: get a copy in which {name} equals {partner}"


def _may_be_untied(facts: InitFacts, name: str) -> bool:
    """Whether the tensor is the head of a language model that, said to be untied, takes every tensor of the file."""
    assert facts.plan is not None
    assert facts.checkpoint is not None
    target = facts.plan.target
    architecture = target.architecture
    if architecture.kind not in KINDS_WITH_A_HEAD or architecture.naming is not Naming.HUGGING_FACE:
        return False
    if name.split(".")[-2:-1] not in [[head] for head in HEADS]:
        return False
    config = target.config._replace(values=MappingProxyType({**target.config.values, TIE_FLAG: False}))
    try:
        untied = make_target(facts.checkpoint, architecture, config)
    except AprError:
        return False
    if untied is None:
        return False
    plan = make_plan(
        facts.checkpoint,
        untied,
        dtype=facts.plan.dtype,
        allowed=facts.allowed_tensors,
        left_out=left_out(facts.checkpoint),
        prefix=facts.plan.added_prefix,
    )
    return plan.ledger.balances and not any(
        ruling.rule is Rule.TIED_COPY and ruling.name == name for ruling in plan.ledger.ruled
    )
