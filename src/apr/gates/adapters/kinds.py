"""The kinds of adapter that PEFT makes, and by which part of their names the tensors of each are known.

Source: PEFT 0.21, `peft_types.PeftType`, and for each kind the text by which its tuner chooses what it saves
(`BaseTuner.prefix`, `_get_adapter_state_dict`). BONE is the name under which PEFT 0.14 to 0.17 saved MISS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MARKS: Mapping[str, str] = {
    "LORA": "lora_",
    "ADALORA": "lora_E",
    "ADAMSS": "adamss_",
    "ADAPTION_PROMPT": "adaption_",
    "BEFT": "beft_",
    "BOFT": "boft_",
    "BONE": "bone_",
    "C3A": "c3a_",
    "CARTRIDGE": "prompt_embeddings",
    "CPT": "prompt_embeddings",
    "DEFT": "deft_",
    "DELORA": "delora_",
    "FOURIERFT": "fourierft_",
    "FROD": "frod_",
    "GLORA": "glora_",
    "GRALORA": "gralora_",
    "HIRA": "hira_",
    "HRA": "hra_",
    "IA3": "ia3_",
    "LILY": "lily_",
    "LN_TUNING": "ln_tuning_",
    "LOHA": "hada_",
    "LOKR": "lokr_",
    "MISS": "miss_",
    "MULTITASK_PROMPT_TUNING": "prompt_embeddings",
    "OFT": "oft_",
    "OSF": "osf_",
    "PEANUT": "peanut_",
    "POLY": "poly_",
    "PREFIX_TUNING": "prompt_embeddings",
    "PROMPT_TUNING": "prompt_embeddings",
    "PSOFT": "psoft_",
    "PVERA": "pvera_lambda_",
    "P_TUNING": "prompt_embeddings",
    "RANDLORA": "randlora_",
    "ROAD": "road_",
    "SHADOW": "shadow_",
    "SHIRA": "shira_",
    "SUPERTUNING": "supertuning_",
    "TINYLORA": "tinylora_",
    "TRAINABLE_TOKENS": "trainable_tokens_",
    "UNILORA": "unilora_",
    "VBLORA": "vblora_",
    "VERA": "vera_lambda_",
    "WAVEFT": "waveft_",
    "XLORA": "internal_xlora_classifier",
}
"""Kind to the text that stands in the name of at least one tensor of every adapter of that kind."""

EXPECTED = (
    "peft_type LORA, which is held against its base; of PEFT's other kinds names and values are looked at: "
    + ", ".join(kind for kind in MARKS if kind != "LORA")
)


def problem_of(kind: object) -> str | None:
    """Why PEFT has no adapter of `kind`; None where it has one."""
    if not isinstance(kind, str):
        return "peft_type names no kind of adapter"
    if kind in MARKS:
        return None
    if kind.upper() in MARKS:
        return f"peft_type is {kind!r}, which PEFT reads as {kind.upper()!r} only"
    return f"peft_type is {kind!r:.80}, which is no kind of adapter of PEFT"


def has_tensors_of(kind: object, names: Iterable[str]) -> bool:
    """Whether `names` are those of an adapter of `kind`; true where the kind is not known."""
    mark = MARKS.get(kind.upper()) if isinstance(kind, str) else None
    return mark is None or any(mark in name for name in names)
