"""The ledger accounts for both sides; only a named rule covers a leftover."""

from pathlib import Path

import pytest

from apr.errors import UsageError
from apr.formats.base import Checkpoint, Format, TensorEntry
from apr.formats.dtypes import DType, stored_size_bytes
from apr.identity.types import Architecture, ExpectedTensor, Kind, ResolvedConfig
from apr.loading.ledger import Rule, Target
from apr.loading.plan import make_plan
from apr.storage.reading import SourceFile

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    return SourceFile(tmp_path / "x")


def checkpoint_of(file: SourceFile, *names: str, dtype: DType = DType.F32, empty: tuple[str, ...] = ()) -> Checkpoint:
    entries = {}
    for name in (*names, *empty):
        size = 0 if name in empty else stored_size_bytes(dtype, 8)
        entries[name] = TensorEntry(name, dtype, (4, 2), file, 0, size)
    return Checkpoint(Path("x"), Format.APR2, (file,), entries, (), None, None)


def target_of(*expected: ExpectedTensor | str, **config: bool) -> Target:
    wanted = [ExpectedTensor(each, (4, 2)) if isinstance(each, str) else each for each in expected]
    architecture = Architecture("Qwen2ForCausalLM", "qwen2", Kind.DECODER)
    return Target(
        architecture, ResolvedConfig(architecture, config, {}, ()), {each.name: each for each in wanted}, origin="atlas"
    )


def test_equal_sides_balance(file):
    plan = make_plan(checkpoint_of(file, EMBEDDING, NORM), target_of(EMBEDDING, NORM))
    assert plan.ledger.balances
    assert plan.ledger.filled == (EMBEDDING, NORM)
    assert [(each.stored_name, each.model_name) for each in plan.assignments] == [(EMBEDDING, EMBEDDING), (NORM, NORM)]


def test_either_leftover_unbalances(file):
    plan = make_plan(checkpoint_of(file, EMBEDDING, "extra.bias"), target_of(EMBEDDING, NORM))
    assert not plan.ledger.balances
    assert (plan.ledger.unfilled, plan.ledger.unused) == ((NORM,), ("extra.bias",))


def test_another_shape_is_neither_filled_nor_reshaped(file):
    plan = make_plan(checkpoint_of(file, EMBEDDING), target_of(ExpectedTensor(EMBEDDING, (2, 4))))
    assert not plan.ledger.balances
    assert plan.assignments == ()
    conflict = plan.ledger.shape_conflicts[0]
    assert (conflict.name, conflict.expected, conflict.found) == (EMBEDDING, (2, 4), (4, 2))


TIED_HEAD = ExpectedTensor(HEAD, (4, 2), tied_to=EMBEDDING)


@pytest.mark.parametrize(
    ("stored", "empty", "rule"),
    [
        ((EMBEDDING,), (), Rule.TIED_ABSENT),
        ((EMBEDDING,), (HEAD,), Rule.TIED_PLACEHOLDER),
        ((EMBEDDING, HEAD), (), Rule.TIED_COPY),
    ],
)
def test_a_tied_head_may_be_absent_empty_or_stored_again(file, stored, empty, rule):
    plan = make_plan(checkpoint_of(file, *stored, empty=empty), target_of(EMBEDDING, TIED_HEAD))
    assert plan.ledger.balances
    assert [(ruling.name, ruling.rule, ruling.partner) for ruling in plan.ledger.tied] == [(HEAD, rule, EMBEDDING)]


def test_a_tied_tensor_fills_its_kept_name_from_another_of_its_names(file):
    plan = make_plan(checkpoint_of(file, HEAD, NORM), target_of(EMBEDDING, NORM, TIED_HEAD))
    assert plan.ledger.balances
    assert [(each.stored_name, each.model_name) for each in plan.assignments] == [(HEAD, EMBEDDING), (NORM, NORM)]
    assert [(each.name, each.rule, each.partner) for each in plan.ledger.tied] == [(HEAD, Rule.TIED_FILLS, EMBEDDING)]


def test_of_several_other_names_one_fills_and_the_rest_are_copies(file):
    other = ExpectedTensor("decoder.embed_tokens.weight", (4, 2), tied_to=EMBEDDING)
    plan = make_plan(checkpoint_of(file, HEAD, other.name), target_of(EMBEDDING, TIED_HEAD, other))
    assert plan.ledger.balances
    assert [(each.name, each.rule) for each in plan.ledger.tied] == [
        (HEAD, Rule.TIED_FILLS),
        (other.name, Rule.TIED_COPY),
    ]


def test_another_name_with_another_shape_fills_nothing(file):
    head = ExpectedTensor(HEAD, (2, 4), tied_to=EMBEDDING)
    plan = make_plan(checkpoint_of(file, HEAD), target_of(ExpectedTensor(EMBEDDING, (2, 4)), head))
    assert [each.name for each in plan.ledger.shape_conflicts] == [EMBEDDING]


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_an_untied_config_fills_no_name_from_another(file):
    plan = make_plan(checkpoint_of(file, HEAD), target_of(EMBEDDING, TIED_HEAD, tie_word_embeddings=False))
    assert plan.ledger.unfilled == (EMBEDDING,)


@pytest.mark.parametrize("empty", [(), (HEAD,)])
def test_an_untied_head_must_hold_bytes(file, empty):
    plan = make_plan(checkpoint_of(file, EMBEDDING, empty=empty), target_of(EMBEDDING, HEAD))
    assert plan.ledger.unfilled == (HEAD,)


def test_a_tie_to_something_absent_fills_nothing(file):
    plan = make_plan(checkpoint_of(file, NORM), target_of(NORM, EMBEDDING, TIED_HEAD))
    assert plan.ledger.unfilled == (EMBEDDING, HEAD)


def test_saved_buffers_and_container_tensors_are_ruled(file):
    buffer = ExpectedTensor("model.rotary_emb.inv_freq", (4, 2), is_optional=True)
    names = (EMBEDDING, buffer.name, "__training__.embed_optimizer.m", "__apr__.tokenizer/vocab.json")
    plan = make_plan(checkpoint_of(file, *names), target_of(EMBEDDING, buffer))
    assert plan.ledger.balances
    assert [ruling.rule for ruling in plan.ledger.ruled] == [Rule.SAVED_BUFFER] + [Rule.CONTAINER_INTERNAL] * 2
    assert make_plan(checkpoint_of(file, EMBEDDING), target_of(EMBEDDING, buffer)).ledger.balances


def test_the_user_allows_one_tensor_at_a_time(file):
    checkpoint, target = checkpoint_of(file, EMBEDDING, "extra.a", "extra.b"), target_of(EMBEDDING)
    plan = make_plan(checkpoint, target, allowed={"extra.a": "known stray"})
    assert plan.ledger.unused == ("extra.b",)
    assert [(each.name, each.reason) for each in plan.ledger.ruled] == [("extra.a", "known stray")]


def test_the_files_own_dtype_is_kept_and_nothing_is_rounded_unasked(file):
    target = target_of(EMBEDDING)
    assert make_plan(checkpoint_of(file, EMBEDDING, dtype=DType.BF16), target).dtype is DType.BF16
    assert make_plan(checkpoint_of(file, EMBEDDING, dtype=DType.APR_Q8), target).dtype is DType.F32
    mixed = checkpoint_of(file, EMBEDDING, dtype=DType.BF16)
    mixed.tensors[NORM] = TensorEntry(NORM, DType.F32, (4, 2), file, 0, 32)
    plan = make_plan(mixed, target_of(EMBEDDING, NORM))
    assert plan.dtype is DType.F32
    assert [each.is_bit_exact for each in plan.assignments] == [False, True]


def test_an_integer_dtype_cannot_hold_parameters(file):
    with pytest.raises(UsageError, match="cannot be held"):
        make_plan(checkpoint_of(file, EMBEDDING), target_of(EMBEDDING), dtype=DType.I8)
