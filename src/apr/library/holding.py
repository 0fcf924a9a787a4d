"""Hold a resident model against a checkpoint: the gates of the one road, with the model itself as the plan's target."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from apr.errors import UsageError
from apr.formats.base import Checkpoint
from apr.formats.dtypes import DType
from apr.gates.facts import Gate, Stage
from apr.gates.road import Examination, RoadOptions, deepen, examine_opened
from apr.gates.runner import check_overrides, run_stage
from apr.gates.table import GATES
from apr.identity.atlas import load_atlas
from apr.identity.left_out import left_out
from apr.identity.renaming import current_name
from apr.identity.types import Architecture, ExpectedTensor, Kind, ResolvedConfig, VerdictKind
from apr.library.casts import is_declared_cast
from apr.library.config_check import CONFIG_ID
from apr.library.naming import NameMap, base_prefix_map, checkpoint_names
from apr.library.over_base import OverBase, settled, with_vocabulary_of
from apr.library.reshaped import changed_rows, resized_tables, without_allowed_shapes
from apr.library.resident import ResidentModel, storage_of
from apr.library.zoo_checks import class_model_type, zoo_gates
from apr.loading.ledger import Assignment, LoadPlan, Target
from apr.loading.materialise import LoadedTensor, read_tensor
from apr.loading.plan import make_plan
from apr.loading.receipt import ReceiptProblem, receipt_of, resident_digests

if TYPE_CHECKING:
    import torch

# Gates that ask who the checkpoint is; a file of tensors for the user's own module, with a name no atlas knows or with
# none, need not say.
IDENTITY_GATES = frozenset(
    {
        "FALSIFY-APR-PRETRAIN-INIT-005",
        "INV-STAMP-AGREE-001",
        "INV-INIT-ARCH-MATCH-001",
        "FALSIFY-APR-PRETRAIN-ARCH-007",
        "INV-INIT-CONFIG-001",
    }
)
SAME_DIGEST_ID = "FALSIFY-APR-PRETRAIN-INIT-010"
"""Compares digests over all tensors of a plan, so it says nothing of one that does not balance, or was cut short."""

NO_REASONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Terms:
    """What the caller declares about a model: how names map, which rounding casts were wanted, what is let through.

    declared: dtypes the file's values may have been rounded to. meta_dtype: of the memory that floats on the meta
    device will get, None for the dtype they have there. over: the adapter that lies over the model.
    """

    name_map: NameMap | None = None
    declared: frozenset[DType] = frozenset()
    meta_dtype: DType | None = None
    over: OverBase | None = None
    allowed_tensors: Mapping[str, str] = field(default_factory=lambda: NO_REASONS)
    allowed_gates: Mapping[str, str] = field(default_factory=lambda: NO_REASONS)

    def __post_init__(self) -> None:
        try:
            check_overrides(self.allowed_gates)
        except UsageError as error:
            expected = (error.expected or "").replace("--allow-gate ID=REASON", "allowed_gates={ID: REASON}")
            raise UsageError(error.what, expected=expected, found=error.found) from None
        unreasoned = sorted(name for name, reason in self.allowed_tensors.items() if not reason.strip())
        if unreasoned:
            raise UsageError(
                "an allowed tensor names one tensor and gives a reason",
                expected="{tensor name: reason}",
                found=f"no reason for {', '.join(unreasoned)}",
            )

    def road_options(self, kind: Kind | None = Kind.DECODER) -> RoadOptions:
        return RoadOptions(
            run_kind=kind,
            may_use_zoo=False,
            allowed_tensors=self.allowed_tensors,
            allowed_gates=self.allowed_gates,
            retry_command="# then load {path} instead",
            allow_words=_allow_in_python,
        )


def _allow_in_python(name: str) -> str:
    return f"allowed_tensors={{{name!r}: 'REASON'}}"


@dataclass(frozen=True)
class Held:
    """A resident model beside an open checkpoint. tensors: checkpoint name to the resident tensor that answers to it.

    gates: those of the table that apply to this pair, and those of this room. optional: old saved buffers that the
    claimed class is known to recompute. reshaped: tensors that the caller lets through in another shape.
    """

    resident: ResidentModel
    examination: Examination
    tensors: Mapping[str, torch.Tensor]
    gates: tuple[Gate, ...]
    optional: tuple[ExpectedTensor, ...]
    terms: Terms
    reshaped: tuple[str, ...] = ()

    @property
    def plan(self) -> LoadPlan:
        assert self.examination.facts.plan is not None
        return self.examination.facts.plan


def hold(resident: ResidentModel, checkpoint: Checkpoint, terms: Terms) -> Held:
    """The pair, planned both ways and with every byte of the file judged; nothing in the model is read or changed yet.

    Raises RefusedError for a name map that is no bijection; all else is a finding.
    """
    identified = _identify(resident, checkpoint, terms)
    claim = identified.facts.verdict.claim if identified.facts.verdict is not None else None
    is_of_transformers = resident.is_zoo_model and type(resident.module).__module__.startswith("transformers.")
    has_identity = is_of_transformers or (claim is not None and bool(claim.readings))
    kind = claim.architecture.kind if claim is not None and claim.architecture is not None else Kind.DECODER
    claimed_plan = identified.facts.plan
    claimed = {} if claimed_plan is None else claimed_plan.target.expected
    prefix = "" if claimed_plan is None else claimed_plan.added_prefix
    # Under the names of the file, as the plan of the resident model has them.
    optional = tuple(
        each._replace(name=each.name.removeprefix(prefix)) for each in claimed.values() if each.is_optional
    )
    plan, tensors = _plan(resident, checkpoint, terms, optional)
    plan, reshaped = without_allowed_shapes(plan, terms.allowed_tensors)
    skipped: frozenset[str] = frozenset() if has_identity else IDENTITY_GATES
    if is_own_class(type(resident.module), checkpoint):
        skipped = IDENTITY_GATES - {CONFIG_ID}
    gates = tuple(gate for gate in GATES if gate.id not in skipped)
    if resident.is_zoo_model:
        own = zoo_gates(resident, has_resized_tables=bool(resized_tables(resident, tensors, reshaped)))
        if terms.over is not None:
            own = tuple(with_vocabulary_of(gate, terms.over, resident) for gate in own)
        gates += own
    facts = identified.facts._replace(plan=plan, plan_note=None, run_kind=kind, allowed_tensors=terms.allowed_tensors)
    facts = facts._replace(buffer_names=_buffer_names(resident, plan, tensors))
    findings = run_stage(Stage.HEADERS, facts, terms.allowed_gates, gates)
    examination = deepen(Examination(facts, findings, terms.road_options(kind)))
    return Held(resident, examination, tensors, gates, optional, terms, reshaped)


def is_own_class(model_class: type[Any], checkpoint: Checkpoint) -> bool:
    """Whether `model_class` is the user's own and the very one that the config names: there is no table to ask who it
    is, so the class, its tensors and its config answer for it.

    A class under a name that the atlas knows is held to that name.
    """
    named = (checkpoint.config or {}).get("architectures")
    return (
        isinstance(named, list)
        and named[:1] == [model_class.__name__]
        and not model_class.__module__.startswith("transformers.")
        and load_atlas().find_class(model_class.__name__) is None
    )


def _identify(resident: ResidentModel, checkpoint: Checkpoint, terms: Terms) -> Examination:
    """Who the checkpoint is. The whole file is asked first: a tensor that is let through is often one that the
    resident model lacks, as a head, and the file's own class needs it; where that says nothing, without them."""
    options = terms.road_options()._replace(may_use_zoo=resident.is_zoo_model)
    identified = examine_opened(checkpoint, options._replace(allowed_tensors=NO_REASONS))
    verdict = identified.facts.verdict
    if terms.allowed_tensors and verdict is not None and verdict.kind not in {VerdictKind.MATCH, VerdictKind.AMBIGUOUS}:
        return examine_opened(checkpoint, options)
    return identified


def hold_again(held: Held, resident: ResidentModel) -> Held:
    """`held` with the model as it is now, after tensors were filled or moved; the file is not read again."""
    facts = held.examination.facts
    assert facts.checkpoint is not None
    plan, tensors = _plan(resident, facts.checkpoint, held.terms, held.optional)
    plan, _ = without_allowed_shapes(plan, held.terms.allowed_tensors)
    examination = held.examination._replace(facts=facts._replace(plan=plan))
    return replace(held, resident=resident, tensors=tensors, examination=examination)


def _plan(
    resident: ResidentModel, checkpoint: Checkpoint, terms: Terms, optional: Iterable[ExpectedTensor]
) -> tuple[LoadPlan, dict[str, torch.Tensor]]:
    """The plan with the model as it is as its target, under the checkpoint's names, and the tensors by those names.

    optional: old saved buffers that the claimed class is known to recompute.
    """
    aliases = {alias: group[0] for group in resident.tied for alias in group[1:]}
    names: Collection[str] = [*resident.tensors, *aliases]
    stored: Collection[str] = checkpoint.tensors.keys()
    name_map = terms.name_map
    if name_map is None and resident.is_zoo_model:
        stored = [current_name(name, checkpoint.tensors) for name in stored]
        name_map = base_prefix_map(resident.module, stored, names)
    named = {
        name: current_name(stored_name, checkpoint.tensors)
        for name, stored_name in checkpoint_names(stored, set(names), name_map).items()
    }
    label = {name: named.get(name) or _unfilled_label(name, stored) for name in names}
    expected: dict[str, ExpectedTensor] = {}
    tensors: dict[str, torch.Tensor] = {}
    groups = {group[0]: group for group in resident.tied}
    for name, tensor in resident.tensors.items():
        group = groups.get(name, (name,))
        kept = next((each for each in group if each in named), group[0])
        tensors[label[kept]] = tensor
        shape = tuple(tensor.shape)
        expected[label[kept]] = ExpectedTensor(label[kept], shape)
        for each in group:
            if each != kept:
                expected[label[each]] = ExpectedTensor(label[each], shape, tied_to=label[kept])
    for saved_buffer in optional:
        expected.setdefault(saved_buffer.name, saved_buffer)
    target = Target(_architecture(resident), ResolvedConfig(_architecture(resident), {}, {}, ()), expected, "the model")
    unused = left_out(checkpoint) if resident.is_zoo_model else NO_REASONS
    plan = make_plan(checkpoint, target, allowed=terms.allowed_tensors, left_out=unused)
    if terms.over is not None:
        plan = settled(plan, terms.over, resident, lambda name: label.get(name, name))
    assignments = tuple(
        _to_resident_dtype(each, tensors[each.model_name], terms.meta_dtype) for each in plan.assignments
    )
    return plan._replace(assignments=assignments), tensors


def _buffer_names(resident: ResidentModel, plan: LoadPlan, tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Stored tensors whose counterpart in memory is a buffer."""
    buffers = {storage_of(buffer) for buffer in resident.module.buffers()}
    return frozenset(each.stored_name for each in plan.assignments if storage_of(tensors[each.model_name]) in buffers)


def _unfilled_label(name: str, stored: Collection[str]) -> str:
    return f"{name} (of the module)" if name in stored else name


def _architecture(resident: ResidentModel) -> Architecture:
    module = resident.module
    model_type = class_model_type(module) if resident.is_zoo_model else "torch.nn.Module"
    return Architecture(type(module).__name__, model_type, Kind.DECODER)


def _to_resident_dtype(assignment: Assignment, tensor: torch.Tensor, meta_dtype: DType | None) -> Assignment:
    from apr.loading.torch_dtypes import from_torch_dtype

    becomes = meta_dtype if meta_dtype is not None and tensor.is_meta and tensor.is_floating_point() else None
    return assignment._replace(cast_to=becomes or from_torch_dtype(tensor.dtype))


def undeclared_casts(held: Held) -> list[ReceiptProblem]:
    """Resident tensors in a dtype that loses part of the stored values, which nobody declared."""
    return [
        ReceiptProblem(
            each.model_name,
            "is held in a dtype that rounds the stored values, and no such cast was declared",
            f"{each.cast_from}, a wider dtype, or dtype= that names {each.cast_to}",
            str(each.cast_to),
        )
        for each in held.plan.assignments
        if not _may_cast(held, each)
    ]


def _may_cast(held: Held, assignment: Assignment) -> bool:
    return is_declared_cast(
        assignment.cast_from,
        assignment.cast_to,
        held.terms.declared,
        has_scale=assignment.scale_name is not None,
    )


def handed_tensors(held: Held) -> dict[str, LoadedTensor]:
    """What each assignment puts into the model if it is carried out, by checkpoint name: digests of the file's bytes,
    cast where the plan says so; one tensor in memory at a time."""
    facts = held.examination.facts
    assert facts.checkpoint is not None
    assert facts.values is not None
    handed: dict[str, LoadedTensor] = {}
    for each in held.plan.assignments:
        entry = facts.checkpoint.tensors[each.stored_name]
        if each.is_bit_exact:
            digest = facts.values[each.stored_name].blake3_hex
            handed[each.model_name] = LoadedTensor(each, entry.size_bytes, digest, digest)
        elif _may_cast(held, each):
            handed[each.model_name] = read_assigned(facts.checkpoint, each)[1]
    return handed


def read_assigned(checkpoint: Checkpoint, assignment: Assignment) -> tuple[torch.Tensor, LoadedTensor]:
    """The tensor of one assignment, scaled and cast as it declares, with the account of what was read."""
    scale = None if assignment.scale_name is None else checkpoint.tensors[assignment.scale_name]
    return read_tensor(checkpoint.tensors[assignment.stored_name], assignment, scale)


def prove(held: Held, more_facts: Mapping[str, Any] = NO_REASONS) -> Examination:
    """The examination with the receipt of what is resident, and every gate that looks at a model in memory.

    more_facts: further fields of `InitFacts` (buffers, probe). Without values (no plan, damaged bytes) nothing is
    read from the model.
    """
    facts = held.examination.facts
    if facts.values is None or facts.checkpoint is None:
        return held.examination
    tables = resized_tables(held.resident, held.tensors, held.reshaped)
    casts = [*undeclared_casts(held), *changed_rows(facts.checkpoint, held.tensors, tables)]
    on_meta = {name for name, tensor in held.tensors.items() if tensor.is_meta}
    problems = casts + [
        ReceiptProblem(name, "is on the meta device: it has no bytes", "a tensor in memory", "none") for name in on_meta
    ]
    silent = {problem.name for problem in problems}
    digests = resident_digests({name: tensor for name, tensor in held.tensors.items() if name not in on_meta})
    plan = held.plan._replace(
        assignments=tuple(each for each in held.plan.assignments if each.model_name not in silent)
    )
    unplanned = set(held.plan.ledger.unfilled) | {each.name for each in held.plan.ledger.shape_conflicts} | silent
    judged = {name: digest for name, digest in digests.items() if name not in unplanned}
    receipt = receipt_of(facts.checkpoint, plan, handed_tensors(held), judged, problems)
    # Not every tensor of the file is read where an adapter holds some in their place.
    is_whole = held.plan.ledger.balances and not problems and held.terms.over is None
    facts = facts._replace(receipt=receipt, **more_facts)
    gates = [gate for gate in held.gates if is_whole or gate.id != SAME_DIGEST_ID]
    findings = run_stage(Stage.RESIDENT, facts, held.terms.allowed_gates, gates)
    return held.examination._replace(facts=facts, findings=(*held.examination.findings, *findings))
