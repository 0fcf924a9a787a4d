"""Make the load plan: a bijection between stored tensors and model tensors, and the ledger of what is left over."""

from __future__ import annotations

from collections.abc import Mapping

from apr.errors import UsageError
from apr.formats.base import Checkpoint, TensorEntry
from apr.formats.dtypes import ENCODINGS, DType
from apr.identity.evidence import INTERNAL_PREFIXES
from apr.identity.renaming import current_name
from apr.identity.ties import TIE_FLAG, expected_ties, stands_for
from apr.loading.ledger import Assignment, Ledger, LoadPlan, Rule, Ruling, ShapeConflict, Target
from apr.loading.scales import lacking_scales, packed_weights, paired_scales

_RESIDENT_FLOATS = (DType.F32, DType.BF16, DType.F16, DType.F64)


def resident_dtype(checkpoint: Checkpoint, asked: DType | None) -> DType:
    """The float dtype the model will hold its parameters in.

    asked: the user's choice, else the file's own float dtype when it has one, else F32, the widest common dtype, so
    that nothing is rounded unasked.
    """
    if asked is not None:
        if asked not in _RESIDENT_FLOATS:
            raise UsageError(
                "parameters cannot be held in this dtype",
                expected=", ".join(_RESIDENT_FLOATS),
                found=str(asked),
            )
        return asked
    floats = {entry.dtype for entry in checkpoint.tensors.values() if ENCODINGS[entry.dtype].is_float}
    quantized = any(ENCODINGS[entry.dtype].is_quantized for entry in checkpoint.tensors.values())
    only = next(iter(floats)) if len(floats) == 1 and not quantized else None
    return only if only in _RESIDENT_FLOATS else DType.F32


def make_plan(
    checkpoint: Checkpoint,
    target: Target,
    *,
    dtype: DType | None = None,
    allowed: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    prefix: str = "",
) -> LoadPlan:
    """The plan that loads `checkpoint` into `target`; nothing is read, nothing is refused here.

    allowed: tensor name to the user's reason; covers that one tensor on either side. left_out: name to the reason why
    the class does not want that tensor of the file (`apr.identity.left_out`). prefix: what the target puts
    before every name of a file that is named as its base model is (`apr.identity.renaming`). A tied tensor that the
    file holds under another of its names is assigned to the name that the target keeps (`apr.identity.ties`).
    """
    allowed, left_out = allowed or {}, left_out or {}
    resident = resident_dtype(checkpoint, dtype)
    named = {
        name: name if name.startswith(INTERNAL_PREFIXES) else prefix + current_name(name, checkpoint.tensors)
        for name in checkpoint.tensors
    }
    other_names = stands_for(
        expected_ties(target.expected, target.config.values),
        {named[name] for name in checkpoint.tensors},
    )
    named = {name: other_names.get(current, current) for name, current in named.items()}
    stored = {named[name]: entry for name, entry in checkpoint.tensors.items() if not entry.is_placeholder}
    placeholders = {named[name] for name, entry in checkpoint.tensors.items() if entry.is_placeholder}
    assignments: list[Assignment] = []
    unfilled: list[str] = []
    rulings: list[Ruling] = []
    conflicts: list[ShapeConflict] = []
    used: set[str] = set()
    # A class that ties always (T5) keeps what is stored apart when the config says untied; so does the zoo's loader.
    is_untied = target.config.values.get(TIE_FLAG) is False
    scales = {named[weight]: scale for weight, scale in paired_scales(checkpoint.tensors).items()}

    for name, wanted in target.expected.items():
        entry = stored.get(name)
        is_tied_copy = entry is not None and wanted.tied_to is not None and wanted.tied_to in stored
        if entry is not None and is_tied_copy and not is_untied:
            used.add(name)
            rulings.append(Ruling(name, Rule.TIED_COPY, partner=wanted.tied_to))
            if entry.shape != wanted.shape:
                conflicts.append(ShapeConflict(name, wanted.shape, entry.shape))
        elif entry is not None and wanted.is_optional:
            used.add(name)
            rulings.append(Ruling(name, Rule.SAVED_BUFFER))
        elif entry is not None:
            used.add(name)
            if entry.shape == wanted.shape:
                assignments.append(_assignment(name, entry, resident, scales.get(name)))
            else:
                conflicts.append(ShapeConflict(name, wanted.shape, entry.shape))
        elif wanted.tied_to is not None and (wanted.tied_to in stored or name in placeholders):
            rule = Rule.TIED_PLACEHOLDER if name in placeholders else Rule.TIED_ABSENT
            rule = Rule.TIED_FILLS if name in other_names else rule
            rulings.append(Ruling(name, rule, partner=wanted.tied_to))
        elif name in allowed:
            rulings.append(Ruling(name, Rule.ALLOWED_BY_USER, reason=allowed[name]))
        elif not wanted.is_optional:
            unfilled.append(name)

    scale_of = {scale: weight for weight, scale in scales.items() if weight in used}
    unused: list[str] = []
    for name, entry in checkpoint.tensors.items():
        if entry.name in scale_of:
            rulings.append(Ruling(name, Rule.SCALE, partner=scale_of[entry.name]))
            continue
        if named[name] in used or (named[name] in placeholders and named[name] in target.expected):
            continue
        if name.startswith(INTERNAL_PREFIXES):
            rulings.append(Ruling(name, Rule.CONTAINER_INTERNAL))
        elif name in allowed:
            rulings.append(Ruling(name, Rule.ALLOWED_BY_USER, reason=allowed[name]))
        elif name in left_out:
            rulings.append(Ruling(name, Rule.LEFT_OUT, reason=left_out[name]))
        else:
            unused.append(name)

    ledger = Ledger(
        filled=tuple(each.model_name for each in assignments),
        unfilled=tuple(unfilled),
        unused=tuple(unused),
        ruled=tuple(rulings),
        shape_conflicts=tuple(conflicts),
        raw_codes=tuple(
            name
            for name in (*lacking_scales(checkpoint), *packed_weights(checkpoint))
            if name not in allowed and name not in left_out
        ),
    )
    return LoadPlan(target=target, dtype=resident, assignments=tuple(assignments), ledger=ledger, added_prefix=prefix)


def counted_names(checkpoint: Checkpoint, plan: LoadPlan | None) -> frozenset[str]:
    """The tensors a weights digest is over: those a load reads where the plan tells, else all that hold model bytes.

    A head stored once more than its tie needs does not count, so that it may come and go between containers.
    """
    if plan is not None and plan.ledger.balances:
        scales = (assignment.scale_name for assignment in plan.assignments if assignment.scale_name is not None)
        return frozenset((*(assignment.stored_name for assignment in plan.assignments), *scales))
    return frozenset(
        name
        for name, entry in checkpoint.tensors.items()
        if not entry.is_placeholder and not name.startswith(INTERNAL_PREFIXES)
    )


def _assignment(name: str, entry: TensorEntry, resident: DType, scale_name: str | None) -> Assignment:
    encoding = ENCODINGS[entry.dtype]
    becomes = resident if encoding.is_float or encoding.is_quantized else entry.dtype
    return Assignment(entry.name, name, cast_from=entry.dtype, cast_to=becomes, scale_name=scale_name)
