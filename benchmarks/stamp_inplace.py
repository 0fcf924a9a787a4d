"""One stamp in place, whatever the size: wall time with interpreter start, bytes written, and a fleet of fifty.

    python benchmarks/stamp_inplace.py --directory /some/ext4/directory [--peer-bytes 2500000000]

Sparse .apr, .safetensors and .gguf files of 0.1, 2.5 and 50 GB with the tensors of a Qwen2; the .gguf holds a
vocabulary of 151,936 tokens and as many merges, as converted models do. Beside it, in the same run and on a file of the
same size: read everything and write everything, and safetensors load_file + save_file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import in_turn, print_environment, run_process, summary

sys.path.insert(0, str(Path(__file__).parents[1]))

HIDDEN, VOCABULARY, FFN, KEY_VALUE = 896, 151_936, 4864, 128
SIZES = {"100 MB": 0.2, "2.5 GB": 1.0, "50 GB": 4.9}  # width of every matrix, in parts of Qwen2-0.5B
LAYER_COUNT = 33
APR = [sys.executable, "-m", "apr"]


def shapes(width: float) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Qwen2 with tied embeddings."""
    hidden, ffn, key_value = (int(each * width / 64) * 64 for each in (HIDDEN, FFN, KEY_VALUE))
    yield "model.embed_tokens.weight", (vocabulary(width), hidden)
    for layer in range(LAYER_COUNT):
        place = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", key_value), ("v", key_value)):
            yield f"{place}self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{place}self_attn.{name}_proj.bias", (rows,)
        yield f"{place}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{place}mlp.gate_proj.weight", (ffn, hidden)
        yield f"{place}mlp.up_proj.weight", (ffn, hidden)
        yield f"{place}mlp.down_proj.weight", (hidden, ffn)
        yield f"{place}input_layernorm.weight", (hidden,)
        yield f"{place}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)


def vocabulary(width: float) -> int:
    return int(VOCABULARY * min(width, 1))


def crc32_of_zeros(size_bytes: int) -> int:
    """By squaring, since nobody wants to sum 50 GB of zeros."""
    from apr.storage.checksums import crc32, crc32_combine

    total, piece, piece_bytes = 0, crc32(b"\0"), 1
    while size_bytes:
        if size_bytes & 1:
            total = crc32_combine(total, piece, piece_bytes)
        piece, piece_bytes, size_bytes = crc32_combine(piece, piece, piece_bytes), piece_bytes * 2, size_bytes >> 1
    return total


def make_apr(path: Path, width: float) -> None:
    """A sparse .apr as the founding trainer wrote it: Qwen2 tensors, stamped LlamaForCausalLM."""
    from apr.formats.apr2.index import IndexEntry, pack_index
    from apr.formats.apr2.layout import HEADER_BYTES, Flags, aligned, pack_header
    from apr.formats.apr2.metadata_text import encode_metadata
    from apr.formats.dtypes import DType
    from apr.storage.checksums import crc32, crc32_combine

    metadata = encode_metadata(
        {
            "name": "model-pretrain",
            "architecture": "LlamaForCausalLM",
            "hidden_size": int(HIDDEN * width / 64) * 64,
            "num_layers": LAYER_COUNT,
            "num_heads": 14,
            "num_kv_heads": 2,
            "vocab_size": vocabulary(width),
            "intermediate_size": int(FFN * width / 64) * 64,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
        }
    )
    entries, offset_bytes = [], 0
    for name, shape in sorted(shapes(width)):
        size_bytes = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries.append(IndexEntry(name, DType.F32, shape, offset_bytes, size_bytes))
        offset_bytes = aligned(offset_bytes + size_bytes)
    index = pack_index(entries)
    index_offset_bytes = HEADER_BYTES + aligned(len(metadata))
    data_offset_bytes = index_offset_bytes + aligned(len(index))
    header = pack_header(
        flags=Flags.LAYOUT_ROW_MAJOR,
        tensor_count=len(entries),
        metadata_size_bytes=len(metadata),
        index_offset_bytes=index_offset_bytes,
        data_offset_bytes=data_offset_bytes,
    )
    head = ((header + metadata).ljust(index_offset_bytes, b"\0") + index).ljust(data_offset_bytes, b"\0")
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + offset_bytes)
        file.seek(0, os.SEEK_END)
        file.write(crc32_combine(crc32(head), crc32_of_zeros(offset_bytes), offset_bytes).to_bytes(4, "little"))


def make_safetensors(path: Path, width: float) -> None:
    from apr.formats.dtypes import DType
    from apr.formats.safetensors.header import encode_header

    forms = {
        name: (DType.F32, shape, 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)) for name, shape in shapes(width)
    }
    header = encode_header(forms, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(size for *_, size in forms.values()))


def make_gguf(path: Path, width: float) -> None:
    """A sparse .gguf as a converter of llama.cpp writes it, but for the architecture it names, which is another."""
    import numpy as np
    from gguf import GGUFWriter

    from tests.gguf_models import gguf_name

    hidden, ffn = (int(each * width / 64) * 64 for each in (HIDDEN, FFN))
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(32_768)
    writer.add_embedding_length(hidden)
    writer.add_block_count(LAYER_COUNT)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(14)
    writer.add_head_count_kv(2)
    writer.add_key_length(int(KEY_VALUE * width / 64) * 32)
    writer.add_value_length(int(KEY_VALUE * width / 64) * 32)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number}" for number in range(vocabulary(width))])
    writer.add_token_types([1] * vocabulary(width))
    writer.add_token_merges([f"a b{number}" for number in range(vocabulary(width))])
    for name, shape in shapes(width):
        size_bytes = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.float32), size_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    end = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(-(-end // 32) * 32 + sum(4 * s[0] * (s[1] if len(s) > 1 else 1) for _, s in shapes(width)))


def stamp_once(path: Path, number: int) -> float:
    """Wall seconds of one `apr stamp --in-place`, interpreter start included."""
    license_ = ("MIT", "Apache-2.0")[number % 2]
    identity = ["--architecture", "qwen2", "--hf-architecture", "Qwen2ForCausalLM", "--hf-model-type", "qwen2"]
    cost = run_process([*APR, "stamp", str(path), *identity, "--license", license_, "--in-place", "--json"])
    if cost.exit_code != 0:
        raise SystemExit(cost.stderr)
    return cost.wall_s


def bytes_written(path: Path, number: int) -> dict[str, int]:
    """Bytes handed to the file system by one stamp, and how much of them is metadata."""
    from unittest import mock

    from apr.stamping.changes import StampChanges
    from apr.stamping.patch import stamp_file
    from apr.storage import operations

    counted: list[int] = []
    write = operations.write

    def counting(descriptor: int, data: bytes, offset_bytes: int) -> None:
        counted.append(len(data))
        write(descriptor, data, offset_bytes)

    with mock.patch.object(operations, "write", counting):
        stamp_file(path, StampChanges(license=("ISC", "0BSD")[number % 2]), in_place=True)
    return {"all": sum(counted), "journal": counted[0], "file": sum(counted[1:])}


def read_all_write_all(source: Path, target: Path) -> float:
    started_s = time.perf_counter()
    data = source.read_bytes()
    with target.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    return time.perf_counter() - started_s


LOAD_AND_SAVE = """
import sys
from safetensors.torch import load_file, save_file
save_file(load_file(sys.argv[1]), sys.argv[2], {"format": "pt", "license": "MIT"})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", default="2.5 GB", choices=SIZES)
    parser.add_argument("--fleet", type=int, default=50)
    arguments = parser.parse_args()
    print_environment("click", "safetensors", "torch")
    print(f"load average {os.getloadavg()[0]:.1f}")
    # As installed, where pip compiles: otherwise each start would compile anew, which takes as long as all the rest.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        folder = Path(name)
        floor = in_turn(
            {"import click": lambda: run_process([sys.executable, "-c", "import click"]).wall_s}, arguments.rounds
        )
        print(f"python -c 'import click' alone: {summary(floor['import click'])}")
        stamped: dict[str, list[float]] = {}
        for size, (width) in SIZES.items():
            for suffix, make in ((".apr", make_apr), (".safetensors", make_safetensors), (".gguf", make_gguf)):
                path = folder / f"{size.replace(' ', '')}{suffix}"
                make(path, width)
                os.sync()  # What the maker left in memory is not the stamp's to write.
                actual = path.stat().st_size
                number = iter(range(1000))
                first_s = stamp_once(path, next(number))
                walls = [stamp_once(path, next(number)) for _ in range(arguments.rounds)]
                stamped[size + suffix] = walls
                written = bytes_written(path, 0)
                print(
                    f"{size + suffix:<20} {actual:>14,} bytes: first stamp {first_s:.3f} s, then {summary(walls)}; "
                    f"{written['all']:,} bytes written, {written['journal']:,} of them journal"
                )
        width = SIZES[arguments.peer]
        for path in folder.iterdir():
            path.unlink()
        peer = folder / "peer.safetensors"
        make_safetensors(peer, width)
        times = in_turn(
            {
                "read all, write all": lambda: read_all_write_all(peer, folder / "copy"),
                "load_file + save_file": lambda: (
                    run_process([sys.executable, "-c", LOAD_AND_SAVE, str(peer), str(folder / "copy")]).wall_s
                ),
            },
            2,
        )
        ours = sorted(stamped[f"{arguments.peer}.safetensors"])[arguments.rounds // 2]
        for what, values in times.items():
            middle = sorted(values)[len(values) // 2]
            print(f"{arguments.peer} {what}: {summary(values)}, {middle / ours:.0f} times a stamp in place")
        for path in folder.iterdir():
            path.unlink()
        fleet(folder, arguments.fleet)


def fleet(folder: Path, count: int) -> None:
    """`apr stamp FOLDER` over `count` files of 2.5 GB on all cores of this machine."""
    width = SIZES["2.5 GB"]
    make_apr(folder / "0.apr", width)
    for number in range(1, count):
        subprocess.run(["cp", "--sparse=always", folder / "0.apr", folder / f"{number}.apr"], check=True)
    for what in ("stamped", "right_already"):
        cost = run_process([*APR, "stamp", str(folder), "--auto", "--hf-model-type", "qwen2", "--in-place", "--json"])
        said = json.loads(cost.stdout.splitlines()[-1])
        print(f"fleet of {count} files of 2.5 GB: {cost.wall_s:.2f} s, {said[what]} {what.replace('_', ' ')}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
