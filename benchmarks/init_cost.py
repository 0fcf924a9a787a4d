"""What the proof costs: `pretrain --init --num-steps 0` on a 1 GB bf16 checkpoint, beside `from_pretrained`.

Prints, each side in turn in one run: peak resident memory above a process that only imported torch and transformers
and started the device (on a CPU it must stay within the model plus 400 MB), bytes read from the file, the seconds of
each gate stage beside `from_pretrained` and one plain read of the file, and what receipt, buffers and probe cost of it
(allowed: 3 s on two cores).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import print_environment, run_process

MODEL = """
import sys, torch
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM
torch.manual_seed(0)
config = Qwen2Config(vocab_size={vocabulary}, hidden_size=1024, num_hidden_layers={layers}, num_attention_heads=16,
                     num_key_value_heads=4, intermediate_size=4096, max_position_embeddings=2048,
                     tie_word_embeddings=True, bos_token_id=0, eos_token_id=0)
torch.set_default_dtype(torch.bfloat16)
model = Qwen2ForCausalLM(config)
model.save_pretrained(sys.argv[1])
import json
from apr.formats.recorded import NOTHING_RECORDED
from apr.loading.probe import record_probe
# As a loader gives it: built in bfloat16, the rotary table would be rounded, which no load reproduces.
model = Qwen2ForCausalLM.from_pretrained(sys.argv[1]).eval()
record = NOTHING_RECORDED._replace(probe=record_probe(model))
(Path(sys.argv[1]) / "apr.json").write_text(json.dumps(record.to_json()))
"""

IMPORT_ONLY = """
import sys, torch, transformers
from transformers import Qwen2ForCausalLM
square = torch.ones(64, 64, dtype=torch.bfloat16, device=sys.argv[1])
square @ square
"""

FROM_PRETRAINED = """
import sys, time, torch
from transformers import AutoModelForCausalLM
start = time.perf_counter()
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).to(sys.argv[2])
print(time.perf_counter() - start)
"""

PLAIN_READ = """
import sys, time
start = time.perf_counter()
with open(sys.argv[1], 'rb', buffering=0) as file:
    buffer = bytearray(8 << 20)
    while file.readinto(buffer):
        pass
print(time.perf_counter() - start)
"""

OUR_ROAD = """
import sys, time
from pathlib import Path
import torch, transformers
from transformers import Qwen2ForCausalLM
from apr.gates.road import RoadOptions, deepen, examine, try_load
from apr.loading import buffers, probe, receipt
clock = time.perf_counter
proofs = {}
def timed(module, name):
    function = getattr(module, name)
    def measured(*arguments, **keywords):
        start = clock()
        answer = function(*arguments, **keywords)
        proofs[name] = clock() - start
        return answer
    setattr(module, name, measured)
timed(receipt, "write_receipt"), timed(buffers, "check_buffers"), timed(probe, "replay_probe")
marks = [clock()]
examination = examine(Path(sys.argv[1]), RoadOptions(may_use_zoo=True)); marks.append(clock())
examination = deepen(examination); marks.append(clock())
model, examination = try_load(examination, device=sys.argv[2]); marks.append(clock())
assert examination.is_accepted, [f.message for f in examination.refusals]
assert examination.facts.probe is not None and len(proofs) == 3, proofs
stages = [later - earlier for earlier, later in zip(marks, marks[1:])]
names = ("write_receipt", "check_buffers", "replay_probe")
print(*(proofs[name] for name in names), *stages, examination.facts.receipt.bytes_read)
"""


def zero_step_run(scratch: Path, model: Path, number: int, device: str) -> list[str]:
    """`apr pretrain --init MODEL --num-steps 0`; the model was never trained, so the loss gate is let through."""
    apr = [sys.executable, "-m", "apr"]
    tokenizer, tokens = scratch / "tokenizer", scratch / "tokens"
    if not tokens.exists():
        corpus = str(Path(json.__file__).parent)
        for command in (
            ["tokenize", "train", "--corpus", corpus, "--vocab-size", "512", "--output", str(tokenizer)],
            ["tokenize", "encode-corpus", "--corpus", corpus, "--tokenizer", str(tokenizer), "--output", str(tokens)],
        ):
            made = run_process([*apr, *command])
            assert made.exit_code == 0, made.stderr
    flags = ["--num-steps", "0", "--seq-length", "1024", "--batch-size", "1", "--force-under-provisioned"]
    flags += ["--val-windows", "2", "--allow-gate", "INV-INIT-LOSS-001=never trained"]
    flags += ["--device", device, "--run-dir", str(scratch / f"{number}")]
    return [*apr, "pretrain", "--init", str(model), "--dataset", str(tokens), "--tokenizer", str(tokenizer), *flags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print_environment("torch", "transformers", "apr")
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        code = MODEL.format(layers=arguments.layers, vocabulary=arguments.vocabulary)
        made = run_process([sys.executable, "-c", code, str(model)])
        assert made.exit_code == 0, made.stderr
        weights = model / "model.safetensors"
        size = weights.stat().st_size
        print(f"model: {size / 1e9:.3f} GB bf16, loaded onto {arguments.device}")
        for number in range(arguments.rounds):
            base = run_process([sys.executable, "-c", IMPORT_ONLY, arguments.device])
            theirs = run_process([sys.executable, "-c", FROM_PRETRAINED, str(model), arguments.device])
            read = run_process([sys.executable, "-c", PLAIN_READ, str(weights)])
            ours = run_process([sys.executable, "-c", OUR_ROAD, str(model), arguments.device])
            assert ours.exit_code == 0, ours.stderr
            receipt, buffers, probe, headers, values, resident, bytes_read = map(float, ours.stdout.split())
            print(
                f"seconds: from_pretrained {float(theirs.stdout):.2f}, one plain read {float(read.stdout):.2f}, "
                f"headers {headers:.2f}, every byte {values:.2f}, load + receipt + buffers + probe {resident:.2f}"
            )
            print(
                f"proof of the load: receipt {receipt:.2f} s, buffers {buffers:.2f} s, probe {probe:.2f} s, "
                f"together {receipt + buffers + probe:.2f} s (allowed 3)"
            )
            run = run_process(zero_step_run(Path(scratch), model, number, arguments.device))
            assert run.exit_code == 0, run.stderr
            over = run.peak_rss_bytes - base.peak_rss_bytes - size
            print(
                f"peak RSS: imports only {base.peak_rss_bytes / 1e6:.0f} MB, "
                f"from_pretrained {theirs.peak_rss_bytes / 1e6:.0f} MB (mapped, not read), "
                f"load with gates {ours.peak_rss_bytes / 1e6:.0f} MB, "
                f"pretrain --init --num-steps 0 {run.peak_rss_bytes / 1e6:.0f} MB in {run.wall_s:.1f} s: "
                f"model {over / 1e6:+.0f} MB above the imports (allowed +400)"
            )
            print(f"bytes: the load read {bytes_read / size:.2f} x the file, the gates before it 1.00 x")


if __name__ == "__main__":
    main()
