"""Kill `stamp --in-place` at random instants, over containers and growth cases, and look at what is left.

    python benchmarks/stamp_kills.py --kills 2000 --directory /some/ext4/directory

After every kill the checkpoint is opened, which finishes or takes back what was interrupted. It must then be, byte
for byte, the file from before or the file from after, with no other file left beside it. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import print_environment

sys.path.insert(0, str(Path(__file__).parents[1]))

STAMP_S, WRITES_S = 0.1, 0.03
GROWTH_BYTES = {"fits": 10, "grows": 3_000, "grows by blocks": 20_000, "grows by megabytes": 2_000_000}


def make_checkpoints(folder: Path) -> dict[str, Path]:
    """A small Qwen2 in every container that can be stamped in place."""
    from safetensors.numpy import load_file, save_file

    from apr.convert.importing import import_checkpoint
    from tests.gguf_models import write_gguf
    from tests.tiny_models import save_tiny

    directory = save_tiny(folder / "hf" / "model", "qwen2")
    tensors = load_file(directory / "model.safetensors")
    stamps = {"format": "pt", "hf_architecture": "Qwen2ForCausalLM"}
    (folder / "safetensors").mkdir()
    save_file(tensors, folder / "safetensors" / "model.safetensors", stamps)
    (folder / "gguf").mkdir()
    write_gguf(directory, folder / "gguf" / "model.gguf", "qwen2", "Q8_0")
    (folder / "apr").mkdir()
    import_checkpoint(directory, folder / "apr" / "model.apr")
    sharded = folder / "hf sharded" / "model"
    shutil.copytree(directory, sharded)
    (sharded / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        texts = {**stamps, "license": "MIT", "data_source": "a corpus"}
        save_file({each: tensors[each] for each in part}, sharded / name, texts)
        weight_map |= dict.fromkeys(part, name)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return {
        "apr": folder / "apr" / "model.apr",
        "safetensors": folder / "safetensors" / "model.safetensors",
        "gguf": folder / "gguf" / "model.gguf",
        "hf": directory,
        "hf sharded": sharded,
    }


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stamp(path: Path, growth: str, number: int) -> None:
    from apr.stamping.changes import StampChanges
    from apr.stamping.patch import stamp_file

    note = f"{number} " + "x" * GROWTH_BYTES[growth]
    license_ = ("MIT", "Apache-2.0")[number % 2]
    if path.suffix == ".gguf":
        changes = StampChanges(license=license_, settings={"general.note": note})
    elif path.is_dir():  # The shards grow too, where they carry such a text.
        changes = StampChanges(license=license_, data_source=note, settings={"note": note})
    else:
        changes = StampChanges(license=license_, settings={"note": note})
    stamp_file(path, changes, in_place=True)


def kill_one(path: Path, growth: str, number: int, instant: float, *, from_first_write: bool) -> bool:
    """Stamp in a process of its own and kill it; whether it was still running.

    instant: 0 to 1, of the whole stamp, or of its writes alone (`from_first_write`), as long as they usually take.
    """
    from apr.storage import operations

    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        if from_first_write:
            create = operations.create
            operations.create = lambda *arguments: (os.write(told, b"!"), create(*arguments))[1]
        else:
            os.write(told, b"!")
        try:
            stamp(path, growth, number)
        finally:
            os._exit(0)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(instant * (WRITES_S if from_first_write else STAMP_S))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--directory", type=Path, default=None, help="on the file system to be tested")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    import logging

    from apr.formats.registry import open_checkpoint

    logging.getLogger("apr").setLevel(logging.ERROR)
    chance = random.Random(arguments.seed)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        originals = Path(name) / "original"
        paths = make_checkpoints(originals)
        stamp(paths["hf"], "fits", 0)  # Imports everything once, so that a fork stamps at once.
        kills = 0
        number = 0
        while kills < arguments.kills:
            container, growth = chance.choice(list(paths)), chance.choice(list(GROWTH_BYTES))
            number += 1
            work = Path(name) / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(originals / container, work)
            path = work / paths[container].name
            if growth == "fits":
                stamp(path, "grows", 0)
            before = files_below(work)
            reference = Path(name) / "reference"
            shutil.rmtree(reference, ignore_errors=True)
            shutil.copytree(work, reference)
            if not kill_one(path, growth, number, chance.random(), from_first_write=number % 4 > 0):
                counts["done before the kill"] += 1
                continue
            kills += 1
            has_journal = any(each.name.endswith(".apr-journal") for each in work.rglob("*"))
            with open_checkpoint(path):
                pass
            after = files_below(work)
            changed = after != before
            counts[f"{'after' if changed else 'before'}{', with a journal to settle' if has_journal else ''}"] += 1
            if set(after) - set(before) - {f"{path.name}/apr.json"}:
                bad.append(f"{container}, {growth}: left {sorted(set(after) - set(before))}")
            if changed and not same_tensors_and_whole(path, reference / path.name, number):
                bad.append(f"{container}, {growth}: neither before nor after")
    took_s = time.monotonic() - started_s
    print_environment()
    left = ", ".join(f"{count} {each}" for each, count in counts.items())
    print(f"{kills} kills in {took_s:.0f} s, seed {arguments.seed}: {left}")
    print(f"{len(bad)} checkpoints unreadable, mixed or with other tensor bytes")
    for line in bad:
        print(f"  {line}")
    return 1 if bad else 0


def same_tensors_and_whole(path: Path, before: Path, number: int) -> bool:
    """Whether a checkpoint that changed says all of what stamp `number` says, and holds the tensors it held."""
    from apr.convert.proof import intact_tensors
    from apr.formats.registry import open_checkpoint
    from apr.quality.facts import text_stamp

    with open_checkpoint(path) as new, open_checkpoint(before) as old:
        if intact_tensors(new) != intact_tensors(old):
            return False
        license_ = ("MIT", "Apache-2.0")[number % 2]
        if path.is_dir():
            said = {new.recorded.provenance.get("license")}
            said |= {texts["license"] for texts in new.weight_metadata.values() if "license" in texts}
            sources = {texts["data_source"] for texts in new.weight_metadata.values() if "data_source" in texts}
            if any(not source.startswith(f"{number} ") for source in sources):
                return False
            return said == {license_} and str((new.config or {}).get("note", "")).startswith(f"{number} ")
        note = str(new.metadata.get("general.note" if path.suffix == ".gguf" else "note", "")).strip('"')
        return text_stamp(new, "license") == license_ and note.startswith(f"{number} ")


if __name__ == "__main__":
    sys.exit(main())
