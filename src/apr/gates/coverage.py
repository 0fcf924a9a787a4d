"""INV-INIT-COVERAGE-001: every parameter is filled, and every file tensor is used or covered by a named rule."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import in_lines, shell_word
from apr.formats.peft.read import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAMES
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import account, beside, folded, repair_commands, uniform_guess, wrapping
from apr.identity.evidence import model_tensors
from apr.identity.gguf_atlas import hugging_face_names
from apr.identity.types import Naming
from apr.identity.wrappers import repair_of
from apr.loading.ledger import Rule
from apr.loading.scales import unscaled_by_choice

ID = "INV-INIT-COVERAGE-001"
NOT_LOADED = (
    "the tensors are accounted for under their names in the file, as llama.cpp takes them; they are not loaded into a "
    "model of Hugging Face, so a run does not start from this file"
)


def _check(facts: InitFacts) -> Iterable[Finding]:
    yield from _account(facts)
    beside = _adapter_beside(facts)
    if beside is not None:
        yield beside


def _account(facts: InitFacts) -> Iterable[Finding]:
    if facts.plan is None or facts.checkpoint is None:
        yield Finding(ID, Status.UNCHECKED, facts.plan_note or "no load plan could be made")
        return
    ledger, target = facts.plan.ledger, facts.plan.target
    if ledger.unfilled or ledger.unused or ledger.raw_codes:
        sides = [*filter(None, [wrapping(facts)])]
        if ledger.unfilled:
            sides.append(f"{len(ledger.unfilled)} model tensors would not be filled: {folded(ledger.unfilled)}")
        if ledger.unused:
            sides.append(f"{len(ledger.unused)} file tensors would not be used: {folded(ledger.unused)}")
        if ledger.raw_codes:
            dtypes = ", ".join(sorted({facts.checkpoint.tensors[name].dtype for name in ledger.raw_codes}))
            sides.append(f"{len(ledger.raw_codes)} tensors ({dtypes}) lack their scale: {folded(ledger.raw_codes)}")
        yield Finding(
            ID,
            Status.REFUSE,
            f"loaded as {target.architecture}, " + "; ".join(sides) + f"; {uniform_guess(facts)}",
            expected="0 unfilled, 0 unused",
            found=account(facts.plan),
            remedy=_remedy(facts),
        )
    else:
        uncertain = unscaled_by_choice(facts.checkpoint)
        if uncertain:
            yield Finding(
                ID,
                Status.UNCHECKED,
                f"{len(uncertain)} 8-bit floating-point tensors, and nothing in the file speaks of scales: whether "
                "they were dropped, only the values show (--deep)",
            )
        if facts.plan.target.architecture.naming is Naming.GGUF:
            yield Finding(ID, Status.UNCHECKED, NOT_LOADED)
        ruled = len(ledger.ruled)
        covered = f"; {ruled} covered by a named rule" if ruled else ""
        left_out = {each.name: each.reason for each in ledger.ruled if each.rule is Rule.LEFT_OUT}
        if left_out:
            covered += f"; left out of the model: {folded(tuple(left_out))}, {next(iter(left_out.values()))}"
        norms = sum(each.stored_name.endswith((".gamma", ".beta")) for each in facts.plan.assignments)
        if norms:
            covered += f"; {norms} `LayerNorm.gamma` and `beta` are today's `weight` and `bias`"
        if facts.plan.added_prefix:
            covered += (
                f"; every name gets `{facts.plan.added_prefix}` before it, which {target.architecture.class_name} puts "
                "before the names of its base model"
            )
        yield Finding(ID, Status.PASS, f"{len(ledger.filled)} filled, 0 unfilled, 0 unused{covered}")


def _adapter_beside(facts: InitFacts) -> Finding | None:
    """What is said of an adapter in a model's own directory, whose tensors no plan of the model holds.

    Not refused: models are published so (`granite_speech`), and whoever loads the planned tensors alone has the model.
    Of a directory on another machine it is not asked, as each name costs a request.
    """
    directory = None if facts.checkpoint is None else facts.checkpoint.directory
    if directory is None or directory.is_remote or not directory.has(ADAPTER_CONFIG_NAME):
        return None
    path = shell_word(directory.path)
    if any(directory.has(name) for name in ADAPTER_WEIGHTS_NAMES):
        said = "where PEFT is installed, transformers' from_pretrained lays that adapter over these weights by itself"
        remedy = f"move the adapter into a directory of its own, and check it: apr preflight ADAPTER_DIR --base {path}"
    else:
        said = "where PEFT is installed, transformers' from_pretrained looks for the adapter's weights and fails"
        remedy = f"remove it, if the adapter is merged: rm {shell_word(directory.path / ADAPTER_CONFIG_NAME)}"
    return Finding(
        ID,
        Status.UNCHECKED,
        f"{ADAPTER_CONFIG_NAME} lies beside the model: {said}; only the model's own weights were looked at",
        remedy=remedy,
    )


def unloadable(facts: InitFacts) -> Finding | None:
    """The refusal to load a GGUF file into a model; None for every other checkpoint."""
    if facts.plan is None or facts.plan.target.architecture.naming is not Naming.GGUF:
        return None
    architecture = facts.plan.target.architecture
    names = ", ".join(hugging_face_names(architecture.model_type)) or "nothing that is known"
    return Finding(
        ID,
        Status.REFUSE,
        "the weights of a GGUF file are not loaded into a model: its tensors have names, orders and forms of their own",
        expected="an .apr file, a .safetensors file or a Hugging Face directory",
        found=f"a GGUF file of {architecture.model_type}; in Hugging Face's names: {names}",
        remedy="start from the model that the GGUF file was made from: its Hugging Face directory or .apr file",
    )


def _remedy(facts: InitFacts) -> str:
    assert facts.plan is not None
    assert facts.verdict is not None
    claimed = facts.plan.target.architecture
    others = [each.architecture for each in facts.verdict.evidence.candidates if each.architecture != claimed]
    leftovers = (*facts.plan.ledger.unfilled, *facts.plan.ledger.unused, *facts.plan.ledger.raw_codes)
    accept = f"to accept one tensor knowingly: {facts.allow_words(min(leftovers, key=len))}"
    if others and others[0] == facts.verdict.claim.architecture:
        return f"the file is what it says it is: load it as {others[0]}; {accept}"
    if any(each.architecture == claimed for each in facts.verdict.evidence.candidates):
        return f"correct the dimensions the checkpoint records (`apr inspect` shows which), or get the file; {accept}"
    if others:
        return repair_commands(facts, others[0])
    repair = None if facts.checkpoint is None else repair_of(model_tensors(facts.checkpoint))
    if repair is not None:
        path = facts.local_path
        unwrapped = beside(path, ".unwrapped.apr", is_file=path.is_file())
        return in_lines(
            f"apr import {shell_word(path)} --unwrap -o {shell_word(unwrapped)}",
            f"which renames every tensor ({repair.words}) and changes no byte; {accept}",
        )
    return f"find the producer that wrote these names, or get a complete copy; {accept}"


GATE = Gate(ID, "the ledger is empty on both sides", Stage.HEADERS, _check)
