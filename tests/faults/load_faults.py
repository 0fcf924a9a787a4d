"""Classes E to H: lost after the load, wrong buffers, hollow saves, damaged files."""

from __future__ import annotations

import torch

from tests.faults.changes import (
    corrupt,
    cut_to,
    forget_one,
    fresh,
    hollow,
    model,
    name_absent_shard,
    remove,
    retell_index,
    rotary,
    shorten,
    untied_on_load,
    zero_end,
)
from tests.faults.checkpoints import SHARDED
from tests.faults.edits import (
    on_disk,
    tensors,
    together,
)
from tests.faults.rows import (
    BUFFERS,
    DEEP,
    DIRECTORIES,
    INTEGRITY,
    LINEAGE,
    LOAD,
    RECEIPT,
    RECORDING,
    SHAPE,
    TIED,
    VALUES,
    Fault,
)
from tests.faults.tokenizers import tokenizer_files

LOAD_FAULTS: tuple[Fault, ...] = (
    # E. Loaded, then lost
    Fault(
        "E",
        "a matrix drawn anew",
        model(lambda model: model.model.layers[1].mlp.up_proj.weight.normal_(0, 0.02)),
        RECEIPT,
        LOAD,
        "up_proj",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "a bias at zero again",
        model(lambda model: model.model.layers[1].self_attn.q_proj.bias.zero_()),
        RECEIPT,
        LOAD,
        "q_proj.bias",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "a throw-away buffer",
        model(
            lambda model: setattr(
                model.lm_head, "weight", torch.nn.Parameter(torch.empty_like(model.lm_head.weight).fill_(3))
            )
        ),
        RECEIPT,
        LOAD,
        "lm_head",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "raw memory",
        model(lambda model: model.model.norm.weight.fill_(float("nan"))),
        RECEIPT,
        LOAD,
        "model.norm.weight",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "two layers exchanged",
        model(lambda model: model.model.layers.insert(0, model.model.layers.pop(1))),
        RECEIPT,
        LOAD,
        "layers.0",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "everything initialised after the load",
        model(lambda model: [each.normal_(0, 0.02) for each in model.parameters()] and None),
        RECEIPT,
        LOAD,
        containers=RECORDING,
    ),
    Fault("E", "a tie undone", model(untied_on_load), RECEIPT, LOAD, "lm_head", containers=RECORDING, options=TIED),
    # F. Derived buffers
    Fault(
        "F",
        "raw memory as rotary table",
        rotary(lambda table: torch.full_like(table, 1e30)),
        BUFFERS,
        LOAD,
        "inv_freq",
        containers=RECORDING,
    ),
    Fault("F", "zeros as rotary table", rotary(torch.zeros_like), BUFFERS, LOAD, containers=RECORDING),
    Fault(
        "F", "NaN in the rotary table", rotary(lambda table: table * float("nan")), BUFFERS, LOAD, containers=RECORDING
    ),
    Fault("F", "finite and wrong", rotary(lambda table: table * 1.0001), BUFFERS, LOAD, containers=RECORDING),
    Fault("F", "rounded to bf16", rotary(lambda table: table.bfloat16().float()), BUFFERS, LOAD, containers=RECORDING),
    Fault(
        "F",
        "float bits read as bf16",
        rotary(lambda table: table.view(torch.bfloat16)[: table.numel()].float()),
        BUFFERS,
        LOAD,
        containers=RECORDING,
    ),
    Fault("F", "another dtype", rotary(lambda table: table.double()), BUFFERS, LOAD, containers=RECORDING),
    # G. Hollow distributed save
    Fault(
        "G",
        "one hollow matrix",
        tensors(r"layers\.1\.mlp\.up_proj", hollow),
        SHAPE,
        says="up_proj",
        containers=RECORDING,
    ),
    Fault("G", "hollow norms", tensors(r"norm\.weight", hollow), SHAPE, containers=RECORDING),
    Fault("G", "everything hollow", tensors(r".", hollow), SHAPE, containers=RECORDING),
    Fault(
        "G", "a hollow embedding", tensors(r"embed_tokens", hollow), SHAPE, says="embed_tokens", containers=RECORDING
    ),
    Fault("G", "a hollow head", tensors(r"lm_head", hollow), SHAPE, says="lm_head", containers=RECORDING),
    Fault(
        "G",
        "a flattened embedding",
        tensors(r"embed_tokens", lambda tensor: tensor.reshape(-1)),
        SHAPE,
        says="embed_tokens",
        containers=RECORDING,
    ),
    Fault("G", "no rows", tensors(r"embed_tokens|lm_head", lambda tensor: tensor[:0]), SHAPE, containers=RECORDING),
    Fault(
        "G",
        "half of the rows of one rank",
        tensors(r"down_proj", lambda tensor: tensor[: len(tensor) // 2].clone()),
        SHAPE,
        says="down_proj",
        containers=RECORDING,
    ),
    # H. Damaged or incomplete files
    Fault(
        "H",
        "a shard is missing",
        on_disk(remove("model-00002-of-00002.safetensors")),
        INTEGRITY,
        says="model-00002-of-00002",
        containers=(SHARDED,),
    ),
    Fault(
        "H",
        "the index names an absent shard",
        retell_index(name_absent_shard),
        INTEGRITY,
        says="model-00003-of-00003",
        containers=(SHARDED,),
    ),
    Fault(
        "H",
        "the index names an absent tensor",
        retell_index(forget_one),
        INTEGRITY,
        says="model.layers.9.extra.weight",
        containers=(SHARDED,),
    ),
    Fault("H", "a file that ends early", on_disk(shorten), INTEGRITY),
    Fault(
        "H",
        "all-zero v_proj",
        tensors(r"v_proj\.weight", lambda tensor: tensor.zero_()),
        VALUES,
        DEEP,
        "zero everywhere",
    ),
    Fault(
        "H",
        "zeros from the middle on",
        tensors(r"layers\.2\.mlp\.up_proj", zero_end),
        VALUES,
        DEEP,
        "nothing but zeros",
    ),
    Fault(
        "H",
        "NaN in one value",
        tensors(r"layers\.2\.mlp\.up_proj", lambda tensor: tensor.view(-1)[3:4].fill_(float("nan")) and None),
        VALUES,
        DEEP,
        "NaN",
    ),
    Fault(
        "H",
        "a table of tokens lost its second half",
        tensors(r"embed_tokens", zero_end),
        VALUES,
        DEEP,
        "end in nothing but zeros",
        containers=RECORDING,
    ),
    Fault(
        "H",
        "a table lost rows that its tokenizer uses",
        together(
            lambda draft: setattr(draft, "tokenizer_files", tokenizer_files(300)),
            tensors(r"embed_tokens", cut_to(200)),
        ),
        VALUES,
        DEEP,
        "embed_tokens",
        containers=DIRECTORIES,
    ),
    Fault(
        "H",
        "a matrix with the bytes of another layer",
        lambda draft: (
            draft.state["model.layers.2.mlp.up_proj.weight"].copy_(draft.state["model.layers.0.mlp.up_proj.weight"])
            and None
        ),
        VALUES,
        DEEP,
        "the same matrix in another layer",
    ),
    Fault(
        "H",
        "one bias at zero again",
        tensors(r"layers\.1\.self_attn\.k_proj\.bias", lambda tensor: tensor.zero_()),
        VALUES,
        DEEP,
        "biases are zero",
    ),
    Fault(
        "H",
        "the last norm at zero",
        tensors(r"^model\.norm\.", lambda tensor: tensor.zero_()),
        VALUES,
        DEEP,
        "nothing gets through",
        containers=RECORDING,
    ),
    Fault(
        "H",
        "one norm at zero",
        tensors(r"layers\.2\.input_layernorm", lambda tensor: tensor.zero_()),
        VALUES,
        DEEP,
        "model.layers.2.input_layernorm.weight",
        base="llama",
        containers=RECORDING,
    ),
    Fault("H", "one wrong byte beside right digests", corrupt, LINEAGE, DEEP, containers=DIRECTORIES),
    Fault(
        "H",
        "one layer still at its initialisation",
        tensors(r"layers\.2\.mlp\.down_proj", fresh),
        VALUES,
        DEEP,
        "fresh initialisation",
        containers=RECORDING,
    ),
    Fault(
        "H",
        "a head still at its initialisation",
        tensors(r"lm_head", fresh),
        VALUES,
        DEEP,
        "lm_head",
        containers=RECORDING,
    ),
)
