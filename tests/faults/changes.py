"""Larger changes of a draft for the tables of the corpus: quantised storage, damaged files, lost or shifted values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

from tests.faults.checkpoints import Draft
from tests.faults.edits import (
    Edit,
    edit_json,
    on_disk,
    on_load,
    tensors,
    together,
    weight_files,
    without,
)
from tests.faults.tokenizers import tokenizer_files


def zero_end(tensor: torch.Tensor) -> None:
    tensor.view(-1)[tensor.numel() // 2 :] = 0


def cut_to(rows: int) -> Callable[[torch.Tensor], None]:
    def cut(tensor: torch.Tensor) -> None:
        tensor[rows:] = 0

    return cut


def hollow(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((0,))


def fresh(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)) * 0.02


def fp8(
    draft: Draft, *, suffix: str | None = "_scale_inv", names: str = r"_proj\.weight$", declared: bool = True
) -> None:
    """Store projections in 8 bits with their scale, as published FP8 checkpoints do."""
    for name in [name for name in draft.state if name.endswith("_proj.weight")]:
        weight = draft.state[name]
        scale = weight.abs().max() / 448
        draft.state[name] = (weight / scale).to(torch.float8_e4m3fn)
        if suffix is not None:
            draft.state[name + suffix] = scale.reshape(1, 1)
    if declared:
        draft.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    # A rounded model behaves a little otherwise; its own probe would be recorded after rounding.
    draft.recorded = type(draft.recorded)()


def fp8_lacking(pattern: str, **options: Any) -> Edit:
    def edit(draft: Draft) -> None:
        fp8(draft, **options)
        without(pattern)(draft)

    return edit


def eights(pattern: str, dtype: torch.dtype) -> Edit:
    return tensors(pattern, lambda tensor: (tensor * 100).to(dtype))


def corrupt(draft: Draft) -> None:
    """The bytes that a damaged disk gives back, beside the digests of the right ones."""

    from blake3 import blake3

    from apr.loading.on_disk import tensor_bytes

    digests = {name: blake3(tensor_bytes(tensor.contiguous())).hexdigest() for name, tensor in draft.state.items()}
    draft.recorded = draft.recorded._replace(tensor_digests=digests)

    def flip(path):
        for file in weight_files(path)[-1:]:
            raw = bytearray(file.read_bytes())
            raw[-5] ^= 0x10
            file.write_bytes(raw)

    draft.after.append(flip)


def shorten(path) -> None:
    file = weight_files(path)[-1]
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 200)


def remove(name: str) -> Callable[[Any], None]:
    return lambda path: (path / name).unlink()


def retell_index(change: Callable[[dict[str, Any]], None]) -> Edit:
    return on_disk(lambda path: edit_json(path / "model.safetensors.index.json", change))


def name_absent_shard(index: dict[str, Any]) -> None:
    first = min(index["weight_map"])
    index["weight_map"][first] = "model-00003-of-00003.safetensors"


def forget_one(index: dict[str, Any]) -> None:
    index["weight_map"]["model.layers.9.extra.weight"] = "model-00001-of-00002.safetensors"


def empty(path) -> None:
    for file in weight_files(path):
        file.write_bytes(b"")


def emptied_directory(path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink()


def gone(path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def permuted(tensor: torch.Tensor, heads: int = 4) -> torch.Tensor:
    """The permutation between Meta's and Hugging Face's rotary layouts of q and k."""
    rows, columns = tensor.shape
    return tensor.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def model(change: Callable[[Any], None]) -> Edit:
    def without_grad(model: Any) -> None:
        with torch.no_grad():
            change(model)

    return on_load(without_grad)


def rotary(change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    def edit(model: Any) -> None:
        rotary = model.model.rotary_emb
        rotary.inv_freq = change(rotary.inv_freq)

    return model(edit)


def untied_on_load(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())


def unrecorded(draft: Draft) -> None:
    draft.recorded = type(draft.recorded)()


def tokenizer(*, recorded: dict[str, bytes], used: dict[str, bytes]) -> Edit:
    def edit(draft: Draft) -> None:
        draft.tokenizer_files = recorded
        draft.tokenizer = used

    return edit


def cast(dtype: torch.dtype) -> Edit:
    def edit(draft: Draft) -> None:
        draft.state = {name: tensor.to(dtype) for name, tensor in draft.state.items()}
        unrecorded(draft)

    return edit


def padded(draft: Draft) -> None:
    """Rows of the embedding for ids that the tokenizer never gives, left at zero."""
    draft.tokenizer_files = tokenizer_files(300)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        draft.state[name][300:] = 0
    unrecorded(draft)


def respelled(draft: Draft) -> None:
    parameters = draft.config.pop("rope_parameters")
    draft.config |= {"rope_theta": parameters["rope_theta"], "rope_scaling": None}


def quiet(edit: Edit) -> Edit:
    return together(edit, unrecorded)


def old_gpt2(draft: Draft) -> None:
    """GPT-2 as it was published: saved from the base model, with the masks that older versions stored."""
    state = {name.removeprefix("transformer."): tensor for name, tensor in draft.state.items()}
    for layer in range(4):
        state[f"h.{layer}.attn.bias"] = torch.ones(128, 128).tril().view(1, 1, 128, 128)
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    draft.state = state


def taken_twice(draft: Draft) -> None:
    """Layers 1 and 2 with the bytes of layers 0 and 3, all of them."""
    for name in draft.state:
        for source, copy in (("layers.0.", "layers.1."), ("layers.3.", "layers.2.")):
            if source in name:
                draft.state[name.replace(source, copy)] = draft.state[name].clone()
    unrecorded(draft)


def half_the_biases(draft: Draft) -> None:
    """As training leaves them that froze the lower layers of a model whose biases began at zero."""
    for name in draft.state:
        if name.endswith("bias") and ("layers.0." in name or "layers.1." in name):
            draft.state[name] = torch.zeros_like(draft.state[name])
    unrecorded(draft)


def alike(draft: Draft) -> None:
    """The state matrices of Mamba as every layer begins with them."""
    first = next(tensor for name, tensor in draft.state.items() if name.endswith("A_log"))
    for name in draft.state:
        if name.endswith("A_log"):
            draft.state[name] = first.clone()
    unrecorded(draft)
