"""Classes L to N: lost encodings, adapters that do nothing, another tokenizer."""

from __future__ import annotations

import torch

from tests.faults.changes import (
    eights,
    fp8,
    fp8_lacking,
    model,
    tokenizer,
)
from tests.faults.edits import (
    added,
    prefixed,
    substituted,
    tensors,
    together,
)
from tests.faults.rows import (
    COVERAGE,
    DEEP,
    DIRECTORIES,
    FITS,
    LOAD,
    PROBE,
    RECEIPT,
    RECORDING,
    SAME,
    SHAPE,
    VALUES,
    Fault,
)
from tests.faults.tokenizers import tokenizer_files

ENCODING_FAULTS: tuple[Fault, ...] = (
    # L. Encoding loss
    Fault(
        "L", "all scales dropped", fp8_lacking("_scale_inv"), COVERAGE, says="lack their scale", containers=DIRECTORIES
    ),
    Fault(
        "L",
        "some scales dropped",
        fp8_lacking(r"layers\.1\..*_scale_inv"),
        COVERAGE,
        says="7 tensors (F8_E4M3) lack their scale",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "scales dropped and the declaration too",
        fp8_lacking("_scale_inv", declared=False),
        VALUES,
        DEEP,
        "fill the range",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "a spelling of scales nobody knows",
        lambda draft: fp8(draft, suffix=".scales"),
        COVERAGE,
        says="scales",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "8-bit integers read raw",
        eights(r"_proj\.weight$", torch.int8),
        COVERAGE,
        says="(I8) lack their scale",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "packed bytes under the weight's name",
        tensors(r"_proj\.weight$", lambda tensor: torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8)),
        SHAPE,
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "qweight read by nobody",
        together(eights(r"_proj\.weight$", torch.int32), substituted(r"_proj\.weight$", "_proj.qweight")),
        COVERAGE,
        says="qweight",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "fp16 overflow",
        tensors(r"layers\.0\.mlp\.up_proj", lambda tensor: (tensor * 1e6).half()),
        VALUES,
        DEEP,
        "infinite",
    ),
    # M. Adapter no-op
    Fault(
        "M",
        "adapters beside a base that ignores them",
        added("model.layers.0.self_attn.q_proj.lora_B.weight", torch.zeros(64, 4)),
        COVERAGE,
        says="lora_B",
    ),
    Fault(
        "M",
        "an adapter without its base",
        lambda draft: setattr(
            draft,
            "state",
            {
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(4, 64),
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.zeros(64, 4),
            },
        ),
        COVERAGE,
        says="lora",
    ),
    Fault(
        "M",
        "base layers inside the adapter's wrapper",
        substituted(r"(q_proj|v_proj)\.", r"\1.base_layer."),
        COVERAGE,
        says="base_layer",
    ),
    Fault("M", "a merged model under the adapter's names", prefixed("base_model.model."), COVERAGE, says="base_model."),
    Fault(
        "M",
        "compiled adapter names",
        lambda draft: draft.state.update(
            {f"_orig_mod.{name}.lora_A.weight": torch.randn(4, 64) for name in ("a", "b")}
        ),
        COVERAGE,
        says="2 names carry `_orig_mod.`",
    ),
    Fault(
        "M",
        "an adapter lost on the way into the model",
        model(lambda model: model.model.layers[0].self_attn.q_proj.weight.sub_(0.01)),
        RECEIPT,
        LOAD,
        "q_proj",
        containers=RECORDING,
    ),
    Fault(
        "M",
        "an unmerged base under the merged record",
        tensors(
            r"q_proj\.weight",
            lambda tensor: tensor + 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)),
        ),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    # N. Tokenizer contradiction
    Fault(
        "N",
        "a larger vocabulary recorded",
        tokenizer(recorded=tokenizer_files(400), used=tokenizer_files(400)),
        FITS,
        says="no embedding",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "a larger vocabulary given",
        lambda draft: setattr(draft, "tokenizer", tokenizer_files(400)),
        FITS,
        says="no embedding",
    ),
    Fault(
        "N",
        "one row too many",
        lambda draft: setattr(draft, "tokenizer", tokenizer_files(321)),
        FITS,
        says="no embedding",
    ),
    Fault(
        "N",
        "shuffled vocabulary",
        tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(300, shuffled=True)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "another pre-tokenizer",
        tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(300, prefix_space=True)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "another normaliser",
        tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(300, lowercase=True)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "fewer merges",
        tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(280)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
)
