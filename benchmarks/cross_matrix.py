"""Config of family A over weights of family B, every pair: who notices, and who goes on with the wrong model?

Tiny models of the zoo's families, the same dimensions as far as their classes allow, with norms and biases away from
their initial values. For each pair a Hugging Face directory holds the config of A, the weights of B and the probe that
B recorded. The truth is behaviour: `from_pretrained` of that directory either gives the logits of B or it does not,
where parameters that the file does not fill hold random values (a fresh bias of zero is luck, not knowledge of B).

Four judges see the same directories in one run:
- `from_pretrained` (refuses only by raising),
- `load_state_dict(strict=True)` of A's class with the state dict of B,
- a gate on nine family names, as the trainer of the founding story had after its repair,
- ours: from headers alone, with every value read, and with the recorded probe replayed.

Silent-wrong: let through, and the model is not B. False refusal: refused, and the model is B.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import print_environment

VOCABULARY = 320
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "head_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "sliding_window": None,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
PLAIN = {key: value for key, value in COMMON.items() if key not in {"sliding_window", "head_dim"}}
GPT = {key: COMMON[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")} | {
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *(
                "llama",
                "mistral",
                "gemma",
                "gemma2",
                "gemma3_text",
                "granite",
                "smollm3",
                "qwen2",
                "qwen3",
                "phi",
                "phi3",
            ),
            *(
                "stablelm",
                "starcoder2",
                "olmo",
                "olmo2",
                "olmo3",
                "cohere",
                "cohere2",
                "glm",
                "glm4",
                "nemotron",
                "helium",
            ),
            *("persimmon", "exaone4", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "apertus", "arcee", "diffllama"),
        ),
        COMMON,
    ),
    **{
        key: {**COMMON, **EXPERTS}
        for key in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe", "dots1")
    },
    **{key: {**PLAIN, **EXPERTS} for key in ("deepseek_v2", "deepseek_v3")},
    **dict.fromkeys(("gpt_neox", "biogpt", "gpt_bigcode", "gptj", "codegen", "bloom", "falcon", "gpt2"), GPT),
    **{key: {**COMMON, "sliding_window": 64} for key in ("gemma2", "gemma3_text", "cohere2", "olmo3", "exaone4")},
    "dots1": {**COMMON, **EXPERTS, "sliding_window": 64},
    "gpt_neo": {**GPT, "attention_types": [[["global"], 2]]},
    "gptj": {**GPT, "rotary_dim": 8},
    "codegen": {**GPT, "rotary_dim": 8},
    "gpt_neox": PLAIN,
    "mpt": {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "xglm": {"vocab_size": VOCABULARY, "d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96},
    "opt": {**GPT, "ffn_dim": 96, "word_embed_proj_dim": 64, "pad_token_id": 0},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "pad_token_id": 0},
}

SMALL = ("llama", "mistral", "gemma", "qwen2", "qwen3", "granite", "phi3", "gpt2")

# The closed list of the gate that the founding story led to: family by stamp, and family by tensor names; unknown on
# either side lets the file pass (paiml/aprender#1760, `pretrain_real.rs`).
NINE_BY_STAMP = (
    (re.compile("qwen3"), "qwen3"),
    (re.compile("qwen2"), "qwen2"),
    (re.compile("llama|mistral|gemma|phi3"), "llama"),
    (re.compile("gptneox"), "gpt_neox"),
    (re.compile("gpt2"), "gpt2"),
    (re.compile("^opt"), "opt"),
    (re.compile("bert"), "bert"),
    (re.compile("mamba"), "mamba"),
    (re.compile("rwkv"), "rwkv"),
)
NINE_BY_NAMES = (
    (re.compile(r"self_attn\.[qk]_norm\."), "qwen3"),
    (re.compile(r"self_attn\.(q_proj\.bias|qkv_proj\.weight)"), "qwen2"),
    (re.compile(r"^model\.layers\.\d+\.self_attn\.q_proj\.weight"), "llama"),
    (re.compile(r"^gpt_neox\."), "gpt_neox"),
    (re.compile(r"(^|\.)h\.\d+\.attn\.c_attn"), "gpt2"),
    (re.compile(r"^model\.decoder\.layers"), "opt"),
    (re.compile(r"encoder\.layer\.\d"), "bert"),
    (re.compile(r"\.mixer\.A_log"), "mamba"),
    (re.compile(r"^rwkv\.blocks"), "rwkv"),
)


@dataclass(frozen=True)
class Family:
    """One tiny model, saved. names: its state dict in memory, as `load_state_dict` sees it."""

    model_type: str
    class_name: str
    directory: Path
    names: dict[str, tuple[int, ...]]
    stored: tuple[str, ...]
    logits: Any
    record: str


@dataclass
class Score:
    """One judge's account. lists: the pairs (A, B) behind the counts."""

    silent_wrong: list[tuple[str, str]] = field(default_factory=list)
    false_refusals: list[tuple[str, str]] = field(default_factory=list)

    def add(self, pair: tuple[str, str], *, is_let_through: bool, is_right: bool) -> None:
        if is_let_through and not is_right:
            self.silent_wrong.append(pair)
        elif is_right and not is_let_through:
            self.false_refusals.append(pair)


@dataclass
class Result:
    """What a run found. verdicts: by pair, ours from headers; answers: how ours ended, by pair."""

    families: list[str]
    right_pairs: list[tuple[str, str]] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], str] = field(default_factory=dict)
    refusing_ids: dict[tuple[str, str], list[str]] = field(default_factory=dict)


JUDGES = (
    "from_pretrained",
    "load_state_dict(strict=True)",
    "nine names",
    "ours, headers",
    "ours, values",
    "ours, probe",
)


def build(model_type: str, directory: Path, dtype: str = "float32") -> Family:
    """The family's model, saved and its probe recorded in `dtype`; its logits are those of float32 arithmetic."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from apr.formats.recorded import Recorded
    from apr.loading.probe import default_probe_tokens, record_probe

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **FAMILIES[model_type])
    model = AutoModelForCausalLM.from_config(config).float()
    # Every family draws its own values: two families with equal weights would hide a mix-up.
    generator = torch.Generator().manual_seed(sum(map(ord, model_type)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            else:
                parameter.mul_(4 * torch.exp(0.3 * torch.randn(parameter.shape, generator=generator)))
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    # As a loader gives it: `.to(dtype)` of a whole model rounds its derived buffers as well.
    model = type(model).from_pretrained(directory, dtype=torch.float32).eval()
    tokens = torch.tensor(default_probe_tokens(VOCABULARY))
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits
    assert bool(torch.isfinite(logits).all()), model_type
    names = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model = type(model).from_pretrained(directory).eval()
    from safetensors import safe_open

    with safe_open(directory / "model.safetensors", "pt") as file:
        stored = tuple(file.keys())
    record = json.dumps(Recorded(probe=record_probe(model)).to_json())
    return Family(model_type, type(model).__name__, directory, names, stored, logits, record)


def put_together(config_of: Family, weights_of: Family, place: Path) -> Path:
    place.mkdir()
    (place / "config.json").write_bytes((config_of.directory / "config.json").read_bytes())
    os.link(weights_of.directory / "model.safetensors", place / "model.safetensors")
    (place / "apr.json").write_text(weights_of.record)
    return place


def behaves_as(weights_of: Family, path: Path) -> tuple[bool, bool]:
    """Whether `from_pretrained` went on, and whether the model it gave has the logits of B."""
    import torch
    from transformers import AutoModelForCausalLM

    from apr.loading.probe import default_probe_tokens

    try:
        torch.manual_seed(1)
        model, report = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except Exception:  # noqa: BLE001 - any exception is a refusal here
        return False, False
    model = model.eval()
    missing = set(report["missing_keys"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in missing:
                parameter.normal_(0, 0.1)
    try:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor(default_probe_tokens(VOCABULARY)), use_cache=False).logits
    except Exception:  # noqa: BLE001 - it was loaded, and does not run
        return True, False
    same = logits.shape == weights_of.logits.shape and bool(torch.allclose(logits, weights_of.logits, 1e-4, 1e-4))
    return True, same


def passes_nine_names(config_of: Family, weights_of: Family) -> bool:
    stamp = config_of.class_name.lower()
    claimed = next((family for pattern, family in NINE_BY_STAMP if pattern.search(stamp)), None)
    for pattern, family in NINE_BY_NAMES:
        if any(pattern.search(name) for name in weights_of.stored):
            return claimed is None or claimed == family
    return True


def ask_ours(path: Path) -> tuple[list[bool], str, list[str]]:
    """Accepted from headers, with values, with the probe; the verdict; and the ids that refused."""
    from apr.gates.road import RoadOptions, deepen, examine, try_load

    examination = examine(path, RoadOptions(may_use_zoo=True))
    verdict = examination.facts.verdict
    answers = [examination.is_accepted]
    for step in (deepen, lambda each: try_load(each)[1]):
        if examination.is_accepted:
            examination = step(examination)
        answers.append(examination.is_accepted)
    examination.close()
    ids = list(dict.fromkeys(finding.id for finding in examination.refusals))
    return answers, "none" if verdict is None else verdict.kind.value, ids


def run(families: Sequence[str], scratch: Path, dtype: str = "float32", *, is_shown: bool = False) -> Result:
    """Every pair of `families` before every judge, the checkpoints in `dtype`."""
    from apr.loading.quiet import quiet_zoo

    built: list[Family] = []
    with quiet_zoo():
        for model_type in families:
            try:
                built.append(build(model_type, scratch / model_type, dtype))
            except Exception as error:  # noqa: BLE001 - a family of another transformers version
                print(f"left out: {model_type}: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)
        result = Result([each.model_type for each in built], scores={judge: Score() for judge in JUDGES})
        for at, config_of in enumerate(built):
            for weights_of in built:
                judge_pair(config_of, weights_of, scratch, result)
            if is_shown:
                print(f"{at + 1}/{len(built)} {config_of.model_type}", file=sys.stderr, flush=True)
    return result


def judge_pair(config_of: Family, weights_of: Family, scratch: Path, result: Result) -> None:
    pair = (config_of.model_type, weights_of.model_type)
    path = put_together(config_of, weights_of, scratch / "-over-".join(pair))
    went_on, is_right = behaves_as(weights_of, path)
    answers, verdict, ids = ask_ours(path)
    if is_right:
        result.right_pairs.append(pair)
    let_through = [went_on, config_of.names == weights_of.names, passes_nine_names(config_of, weights_of), *answers]
    for judge, is_let_through in zip(JUDGES, let_through, strict=True):
        result.scores[judge].add(pair, is_let_through=is_let_through, is_right=is_right)
    result.verdicts[pair] = verdict
    result.refusing_ids[pair] = ids


def blind_matches(result: Result) -> list[tuple[str, str]]:
    """Pairs that ours let through from headers as `match` although the model is another one: never allowed."""
    silent = result.scores["ours, headers"].silent_wrong
    return [pair for pair in silent if result.verdicts[pair] != "ambiguous"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), help="model types, all by default")
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the files")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print_environment("torch", "transformers", "apr")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        families = SMALL if arguments.small else arguments.families
        result = run(families, Path(scratch), arguments.dtype, is_shown=True)
    size = len(result.families)
    off = [pair for pair in result.right_pairs if pair[0] != pair[1]]
    print(f"{arguments.dtype} files: {', '.join(result.families)}")
    print(f"{size} x {size} = {size * size} pairs in {time.perf_counter() - start:.0f} s")
    print(f"truth: {len(result.right_pairs)} right ({len(off)} off the diagonal: {off}), the rest wrong")
    print(f"{'judge':<30} {'silent-wrong':>12} {'false refusals':>15}")
    for judge, score in result.scores.items():
        print(f"{judge:<30} {len(score.silent_wrong):>12} {len(score.false_refusals):>15}")
    for judge in JUDGES[3:]:
        score = result.scores[judge]
        print(f"{judge}: silent-wrong {Counter(map(tuple, score.silent_wrong)).most_common(80)}")
        print(f"{judge}: false refusals {[(pair, result.refusing_ids[pair]) for pair in score.false_refusals]}")
    print(f"from headers, let through as `match` and wrong: {blind_matches(result)}")
    probe = result.scores["ours, probe"]
    return 1 if probe.silent_wrong or probe.false_refusals or blind_matches(result) else 0


if __name__ == "__main__":
    sys.exit(main())
