"""The GGUF atlas as data: complete for the installed gguf, light to load, made by its tools and by nothing else."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from apr.identity.claim import normalise
from apr.identity.entries import Entry, Template, condition_holds, place_holds
from apr.identity.gguf_atlas import (
    GGUF_DATA_FILE,
    gguf_facts,
    hugging_face_names,
    load_gguf_atlas,
    slugs_by_counterpart,
)
from apr.identity.shapes import evaluate, fields_of
from apr.identity.types import Naming, VerdictKind
from apr.identity.verdict import give_verdict
from tests.identity.gguf_models import headers_of

TOOLS = Path(__file__).parents[2] / "tools"
LAYERS = 4
KINDS_OF_LAYERS = {
    "first_k_dense_replace": 1,
    "recurrent_layers": [1, 0, 1, 0],
    "moe_layers": [0, 1, 0, 1],
    "attention_layers": [0, 1, 0, 0],
    "feed_forward_layers": [0, 0, 0, 1],
    "linear_layers": [1, 0, 0, 0],
    "kv_layers": [1, 1, 0, 0],
    "value_layers": [1, 0, 0, 0],
    "windowed_layers": [1, 0, 1, 0],
    "cross_biased_layers": [1, 0, 0, 0],
    "nextn_layers": [0, 0, 0, 0],
}
"""Layers of a model that has every kind an architecture can have."""


def entries() -> list[Entry]:
    atlas = load_gguf_atlas()
    return [atlas.entry_at(at) for at in range(len(atlas.architectures))]


EXACT = [entry for entry in entries() if entry.is_exact]


def smallest_shapes(entry: Entry) -> dict[str, tuple[int, ...]]:
    """A file of `entry` with its required tensors only, in pairwise different sizes."""
    fields: dict[str, int] = {"num_hidden_layers": LAYERS, "num_decoder_layers": LAYERS}
    shapes = {}
    for template in entry.templates:
        if template.bundle or template.is_optional or not condition_holds(template.when, dict.fromkeys(flags(entry))):
            continue
        for dim in template.dims:
            for field in sorted(fields_of(dim)) if dim != "?" else ():
                fields.setdefault(field, 24 + 8 * len(fields))
        for layer in range(LAYERS if template.loops else 1):
            scope = {**fields, **KINDS_OF_LAYERS, "layer": layer}
            if place_holds(template.where, scope):
                shape = tuple(7 if dim == "?" else evaluate(dim, scope) for dim in template.dims)
                shapes[template.pattern.format(layer=layer)] = shape
    return shapes


def flags(entry: Entry) -> set[str]:
    return {name for template in entry.templates for terms in template.when for name, _ in terms}


def base_name(template: Template) -> str:
    return template.pattern.removesuffix(".weight").removesuffix(".bias").removesuffix(".scales")


def test_every_architecture_of_the_installed_gguf_is_described() -> None:
    from gguf.constants import MODEL_ARCH_NAMES

    known = {architecture.model_type for architecture in load_gguf_atlas().architectures}
    assert known == set(MODEL_ARCH_NAMES.values()), "run tools/build_gguf_atlas.py again"


def test_the_check_sees_an_architecture_that_the_data_lacks() -> None:
    from gguf.constants import MODEL_ARCH_NAMES

    known = {architecture.model_type for architecture in load_gguf_atlas().architectures}
    assert {*MODEL_ARCH_NAMES.values(), "brandnew"} - known == {"brandnew"}


def test_the_data_names_what_it_was_made_from() -> None:
    from importlib.metadata import version

    source = str(load_gguf_atlas().source)
    assert source.startswith(f"gguf {version('gguf')}, llama.cpp "), "run tools/build_gguf_atlas.py again"
    assert source.endswith(f"transformers {version('transformers')}"), "run tools/build_gguf_atlas.py again"


@pytest.mark.slow
def test_the_shipped_data_is_what_the_tool_makes() -> None:
    tool = _tool("build_gguf_atlas")
    made = tool.pack(tool.build(json.loads((TOOLS / "gguf_loader.json").read_text())))
    shipped = GGUF_DATA_FILE.read_bytes()
    assert zlib.decompress(made, 31) == zlib.decompress(shipped, 31), "run tools/build_gguf_atlas.py again"


def test_what_is_required_is_in_gguf_s_own_list() -> None:
    from gguf.constants import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES

    members = {slug: member for member, slug in MODEL_ARCH_NAMES.items()}
    for entry in EXACT:
        listed = {TENSOR_NAMES[each].replace("{bid}", "{layer}") for each in MODEL_TENSORS[members[_slug(entry)]]}
        required = [each for each in entry.templates if not each.bundle and not each.is_optional]
        assert {base_name(each) for each in required} <= listed, _slug(entry)
        assert required, _slug(entry)


def test_every_name_is_one_that_gguf_can_write() -> None:
    from gguf.constants import TENSOR_NAMES

    written = {name.replace("{bid}", "{layer}") for name in TENSOR_NAMES.values()} | {"blk.{layer}.ffn.act"}
    for entry in EXACT:
        assert {base_name(each) for each in entry.templates if each.pattern != "blk.{layer}.ffn_gate_inp.scale"} <= {
            *written,
            *(f"{name}.scale" for name in written),
        }, _slug(entry)


@pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.architecture.model_type)
def test_a_file_with_the_required_tensors_is_recognised(entry: Entry) -> None:
    verdict = give_verdict(headers_of(smallest_shapes(entry), _slug(entry)))
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS), verdict.reasons
    assert verdict.evidence.candidates[0].architecture == entry.architecture


@pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.architecture.model_type)
def test_a_file_without_one_required_tensor_is_not(entry: Entry) -> None:
    shapes = smallest_shapes(entry)
    in_all = [name for name in shapes if all(name.replace(".1.", f".{at}.", 1) in shapes for at in range(LAYERS))]
    for name in {*in_all[:3], *in_all[-3:], *(each for each in ("token_embd.weight",) if each in shapes)}:
        cut = {other: shape for other, shape in shapes.items() if other != name}
        verdict = give_verdict(headers_of(cut, _slug(entry)))
        fitting = [candidate.architecture for candidate in verdict.evidence.candidates]
        assert entry.architecture not in fitting, name


def test_no_plain_llama_passes_for_an_architecture_named_for_its_experts_or_recurrence() -> None:
    llama = next(entry for entry in EXACT if _slug(entry) == "llama")
    fitting = give_verdict(headers_of(smallest_shapes(llama), "llama")).evidence.candidates
    slugs = {candidate.architecture.model_type for candidate in fitting}
    assert slugs.isdisjoint({"jamba", "granitehybrid", "granitemoe", "deepseek", "ernie4_5-moe", "lfm2"})
    assert {"llama", "granite", "smollm3", "mistral3"} <= slugs


def test_names_of_architectures_differ_by_more_than_case_and_separators() -> None:
    slugs = [normalise(architecture.model_type) for architecture in load_gguf_atlas().architectures]
    assert len(set(slugs)) == len(slugs)
    assert {architecture.naming for architecture in load_gguf_atlas().architectures} == {Naming.GGUF}


@pytest.mark.parametrize(
    ("name", "slugs"),
    [
        ("Qwen2ForCausalLM", ("qwen2",)),
        ("qwen2_moe", ("qwen2moe",)),
        ("MixtralForCausalLM", ("llama",)),
        ("mistral", ("llama",)),
        ("DeepseekV3ForCausalLM", ("deepseek2",)),
        ("gpt_neox", ("gptneox",)),
        ("OPTForCausalLM", ()),
    ],
)
def test_hugging_face_names_and_their_gguf_architectures(name: str, slugs: tuple[str, ...]) -> None:
    assert slugs_by_counterpart().get(name, ()) == slugs


def test_what_nobody_says_is_unknown_and_every_line_has_its_source() -> None:
    facts = {_slug(entry): gguf_facts(_slug(entry)) for entry in entries()}
    assert facts["gptj"].counterparts == ()
    assert [each.model_type for each in facts["orion"].counterparts] == [None]
    assert hugging_face_names("orion") == ()
    sources = {each.source for fact in facts.values() for each in fact.counterparts}
    assert sources <= {"llama.cpp's converter", "transformers' GGUF loader"}
    assert hugging_face_names("qwen2")[0] == "Qwen2ForCausalLM"


def test_the_look_up_needs_neither_gguf_nor_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from apr.identity.gguf_atlas import load_gguf_atlas\n"
        "from apr.identity.gguf_evidence import read_gguf_stamp\n"
        "assert read_gguf_stamp('qwen2') and len(load_gguf_atlas().architectures) > 100\n"
        "assert not {'gguf', 'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


LOADER = """
void llama_model_tiny::load_arch_hparams(llama_model_loader & ml) {
    ml.get_key(LLM_KV_EPS, hparams.eps);       // "needed": see {docs}
    ml.get_key(LLM_KV_WINDOW, hparams.window, false);
}
void llama_model_tiny::load_arch_tensors(llama_model_loader &) {
    LLAMA_LOAD_LOCALS;
    const int64_t n_wide = 2 * n_ff;
    tok_embd = create_tensor(tn(LLM_TENSOR_TOKEN_EMBD, "weight"), {n_embd, n_vocab}, 0);
    if (output == NULL) {
        output = create_tensor(tn(LLM_TENSOR_TOKEN_EMBD, "weight"), {n_embd, n_vocab}, TENSOR_DUPLICATED);
    }
    for (int i = 0; i < n_layer; ++i) {
        create_tensor_qkv(layer, i, n_embd, n_embd, n_embd_gqa, n_embd_gqa, 0);
        if (n_expert == 0) {
            layer.up = create_tensor(tn(LLM_TENSOR_FFN_UP, "weight", i), {n_embd, n_wide}, 0);
        } else {
            layer.ups = create_tensor(tn(LLM_TENSOR_FFN_UP_EXPS, "weight", i), {n_embd, n_ff_exp, n_expert}, 0);
        }
        layer.up_b = create_tensor(tn(LLM_TENSOR_FFN_UP, "bias", i), {hparams.n_ff(i)}, TENSOR_NOT_REQUIRED);
    }
}
"""


def test_the_reader_of_the_loader_takes_names_shapes_and_conditions(tmp_path: Path) -> None:
    sources = tmp_path / "src"
    (sources / "models").mkdir(parents=True)
    (sources / "models" / "tiny.cpp").write_text(LOADER)
    (sources / "llama-arch.cpp").write_text(
        '{ LLM_ARCH_TINY, "llama" }, { LLM_TENSOR_TOKEN_EMBD, "token_embd" }, { LLM_KV_EPS, "%s.eps" },'
        '{ LLM_TENSOR_FFN_UP, "blk.%d.ffn_up" }, { LLM_TENSOR_FFN_UP_EXPS, "blk.%d.ffn_up_exps" }'
    )
    (sources / "llama-model.cpp").write_text(
        "    case LLM_ARCH_TINY:\n        return new llama_model_tiny(params);\n"
        "llama_rope_type llama_model_rope_type(const llama_model * model) {\n"
        "        case LLM_ARCH_TINY:\n            return LLAMA_ROPE_TYPE_NEOX;\n\n}\n"
    )
    converter = tmp_path / "conversion"
    converter.mkdir()
    (converter / "tiny.py").write_text(
        '@ModelBase.register("TinyForCausalLM")\nclass Tiny(TextModel):\n    model_arch = gguf.MODEL_ARCH.LLAMA\n'
    )
    found = _tool("read_gguf_loader").read_loader(tmp_path)["llama"]
    assert (found["keys"], found["rope"], found["classes"]) == (["eps"], "neox", ["TinyForCausalLM"])
    values = "(num_key_value_heads*value_head_dim)"
    assert found["tensors"] == [
        {"name": "token_embd.weight", "dims": ["vocab_size", "hidden_size"]},
        {"parts": "qkv", "dims": ["hidden_size", "hidden_size", values, values]},
        {
            "name": "blk.{layer}.ffn_up.weight",
            "dims": ["(2*intermediate_size)", "hidden_size"],
            "when": [["is_sparse", False]],
        },
        {
            "name": "blk.{layer}.ffn_up_exps.weight",
            "dims": ["num_experts", "moe_intermediate_size", "hidden_size"],
            "when": [["is_sparse", True]],
        },
        {"name": "blk.{layer}.ffn_up.bias", "dims": ["?"], "may": True},
    ]


def _slug(entry: Entry) -> str:
    return entry.architecture.model_type


def _tool(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
