"""The atlas as data: complete for the installed zoo, light to load, bounded against hostile configs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from apr.errors import DamagedFileError
from apr.identity.atlas import expected_tensors, load_atlas
from apr.identity.evidence import gather_evidence
from apr.identity.verdict import give_verdict
from tests.identity.headers import MODEL_TYPE, headers, stored_shapes

EXACT_CLASSES = 640

NINE_FAMILIES = (
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "mistral"),
    ("GemmaForCausalLM", "gemma"),
    ("GraniteForCausalLM", "granite"),
    ("SmolLM3ForCausalLM", "smollm3"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
    ("GPT2LMHeadModel", "gpt2"),
    ("GPTNeoXForCausalLM", "gpt_neox"),
    ("OPTForCausalLM", "opt"),
    ("BertForMaskedLM", "bert"),
    ("BertModel", "bert"),
    ("MambaForCausalLM", "mamba"),
    ("RwkvForCausalLM", "rwkv"),
)


@pytest.mark.parametrize(("class_name", "model_type"), NINE_FAMILIES)
def test_the_nine_families_are_exact(class_name: str, model_type: str) -> None:
    entry = load_atlas().find_class(class_name)
    assert entry is not None
    assert entry.is_exact
    assert entry.architecture.model_type == model_type


COVERED = (
    "CAUSAL_LM",
    "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "QUESTION_ANSWERING",
)


@pytest.mark.parametrize("task", COVERED)
def test_every_class_of_the_installed_zoo_is_described_or_named_as_absent(task: str) -> None:
    from transformers.models.auto import modeling_auto

    atlas = load_atlas()
    known = {(each.class_name, each.model_type) for each in atlas.architectures}
    lacking = [
        f"{model_type}/{class_name}"
        for model_type, classes in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items()
        for class_name in ([classes] if isinstance(classes, str) else classes)
        if (class_name, model_type) not in known
    ]
    assert lacking == [], "run tools/build_atlas.py again"


def test_what_the_atlas_only_names_says_why() -> None:
    atlas = load_atlas()
    empty = {
        f"{each.model_type}/{each.class_name}"
        for each, (required, others) in zip(atlas.architectures, atlas.pattern_rows, strict=True)
        if not (required or others)
    }
    assert empty == set(atlas.absent)


def test_most_classes_are_described_exactly() -> None:
    """A floor, so that a generator that understands less than the one before it is noticed."""
    atlas = load_atlas()
    exact = sum(atlas.entry_at(at).is_exact for at in range(len(atlas.architectures)))
    assert exact >= EXACT_CLASSES


def test_the_atlas_was_made_from_the_installed_zoo() -> None:
    import transformers

    assert load_atlas().source == f"transformers {transformers.__version__}", "run tools/build_atlas.py again"


def test_a_verdict_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from apr.identity.verdict import give_verdict; from apr.identity.atlas import load_atlas;"
        "load_atlas().architectures; heavy = {'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_opening_the_atlas_and_a_verdict_on_a_thousand_tensors_are_quick() -> None:
    """Generous bounds for a busy machine; `benchmarks` print the real figures."""
    config = {
        "hidden_size": 64,
        "num_hidden_layers": 110,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 320,
    }
    checkpoint = headers(stored_shapes("LlamaForCausalLM", **config), [(MODEL_TYPE, "llama")])
    assert len(checkpoint.tensors) > 990
    fresh = load_atlas.__wrapped__
    started = time.process_time()
    fresh()
    opened = time.process_time()
    give_verdict(checkpoint)
    decided = time.process_time()
    assert opened - started < 0.1
    assert decided - opened < 0.5


HOSTILE: tuple[dict[str, Any], ...] = (
    {"num_hidden_layers": 10**12},
    {"num_hidden_layers": 10**30},
    {"num_hidden_layers": -3},
    {"num_hidden_layers": "24"},
    {"num_hidden_layers": 2.5},
    {"num_hidden_layers": True},
    {"num_hidden_layers": None},
    {"num_hidden_layers": [24]},
    {"num_hidden_layers": 200_000},
    {"hidden_size": 10**40},
    {"hidden_size": None},
    {"num_attention_heads": 0},
    {"num_attention_heads": {"evil": 1}},
    {"vocab_size": -1},
)


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
@pytest.mark.parametrize("class_name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "BertModel"])
def test_a_hostile_config_is_refused_before_anything_is_made(class_name: str, hostile: dict[str, Any]) -> None:
    entry = load_atlas().find_class(class_name)
    assert entry is not None
    healthy = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99}
    if class_name == "BertModel" and "num_attention_heads" in hostile:
        pytest.skip("no tensor of BERT depends on the number of heads")
    started = time.process_time()
    with pytest.raises(DamagedFileError):
        expected_tensors(entry, {**healthy, **hostile})
    assert time.process_time() - started < 1.0


def test_the_caller_bounds_the_number_of_tensors() -> None:
    entry = load_atlas().find_class("LlamaForCausalLM")
    assert entry is not None
    with pytest.raises(DamagedFileError, match="more tensors than the file can explain"):
        expected_tensors(entry, {"num_hidden_layers": 60, "num_key_value_heads": 32}, max_tensors=50)


def test_an_inexact_entry_says_so_instead_of_guessing() -> None:
    atlas = load_atlas()
    for at in range(len(atlas.architectures)):
        entry = atlas.entry_at(at)
        if not entry.is_exact:
            assert expected_tensors(entry, {}) is None
            return
    pytest.skip("every entry of this atlas is exact")


def test_a_value_whose_effect_is_not_expressed_is_not_guessed_at() -> None:
    atlas = load_atlas()
    for at in range(len(atlas.architectures)):
        entry = atlas.entry_at(at)
        if entry.is_exact and entry.fixed:
            assert expected_tensors(entry, {entry.fixed[0]: "something else"}) is None
            return
    pytest.skip("no entry of this atlas has such a field")


def test_names_in_a_file_are_data_only() -> None:
    evil = {
        "model.{layer}.x": (1,),
        "{0.__class__}": (1,),
        "a" * 4000: (1,),
        "": (1,),
        "model.layers.99999999999.w": (1,),
    }
    evidence = gather_evidence(headers(evil, [(MODEL_TYPE, "llama")]))
    assert evidence.candidates == ()
