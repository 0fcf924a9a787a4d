"""The library's proofs on a GPU: however the model came there, the same answer as on the CPU, and the same refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import apr
import apr.hf
from apr.errors import RefusedError
from apr.formats.recorded import NOTHING_RECORDED
from apr.loading.probe import record_probe
from apr.loading.quiet import quiet_zoo
from tests.library.conftest import process_group_of_one, refusing_ids
from tests.library.test_trainer_callback import train  # noqa: F401
from tests.library.test_wrappers import distributed, sharded
from tests.tiny_models import CONFIGS, trained_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

SOURCES = [(model_type, "float32") for model_type in sorted(CONFIGS)]
SOURCES += [(model_type, dtype) for model_type in ("qwen2", "gemma2", "phi3") for dtype in ("bfloat16", "float16")]


@pytest.fixture(scope="module", params=SOURCES, ids="-".join)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its probe, recorded on the CPU."""
    model_type, dtype = request.param
    directory = tmp_path_factory.mktemp("cuda") / model_type
    model = trained_model(model_type).to(getattr(torch, dtype))
    with quiet_zoo():
        model.save_pretrained(directory)
    record = NOTHING_RECORDED._replace(probe=record_probe(model))
    (directory / "apr.json").write_text(json.dumps(record.to_json()))
    return directory


def loaded_there(path: Path) -> Any:
    return zoo_class(path).from_pretrained(path, device_map="cuda")


def moved_there(path: Path) -> Any:
    return zoo_class(path).from_pretrained(path).to("cuda")


def built_there(path: Path) -> Any:
    """Buffers computed on the device, weights copied into what was built."""
    from transformers import AutoConfig

    loaded = zoo_class(path).from_pretrained(path)
    with torch.device("cuda"):
        model = zoo_class(path).from_config(AutoConfig.from_pretrained(path), dtype=loaded.dtype)
    model.load_state_dict(loaded.state_dict())
    return model.eval()


def zoo_class(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


ROADS = [loaded_there, moved_there, built_there]


def test_a_verified_load_lands_on_the_device(source: Path) -> None:
    model, receipt = apr.load_verified(None, source, device="cuda")
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert receipt.tensors_written


@pytest.mark.parametrize("road", ROADS)
def test_a_model_that_somebody_else_brought_there_is_proven(source: Path, road: Callable[[Path], Any]) -> None:
    assert apr.verify_loaded(road(source), source).tensors_written


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("road", ROADS)
def test_a_tensor_changed_on_the_device_is_refused(source: Path, road: Callable[[Path], Any]) -> None:
    model = road(source)
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.dim() == 1).view(-1)[0] += 1
    assert "INV-INIT-RECEIPT-001" in refusing_ids(lambda: apr.verify_loaded(model, source))


@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
@pytest.mark.parametrize("road", ROADS)
def test_a_rotary_table_changed_on_the_device_is_refused(
    tmp_path: Path, qwen2: Path, road: Callable[[Path], Any]
) -> None:
    model = road(qwen2)
    model.model.rotary_emb.inv_freq.mul_(1.0001)
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2)) == {"INV-INIT-BUFFERS-001"}


@pytest.fixture
def tensor_float_32() -> Iterator[None]:
    """As many training scripts set it: float32 products with the mantissa of ten bits."""
    former = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(former)


def test_a_probe_is_replayed_in_full_precision_whatever_the_script_has_set(tensor_float_32: None, source: Path) -> None:
    assert apr.verify_loaded(loaded_there(source), source).tensors_written
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_another_norm_epsilon_is_seen_on_the_device(tmp_path: Path) -> None:
    model = trained_model("qwen2")
    model.save_pretrained(tmp_path / "model")
    record = NOTHING_RECORDED._replace(probe=record_probe(model))
    (tmp_path / "model" / "apr.json").write_text(json.dumps(record.to_json()))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-2}))
    assert "INV-INIT-PROBE-001" in refusing_ids(lambda: apr.load_verified(None, tmp_path / "model", device="cuda"))


def test_your_own_module_is_filled_on_the_device(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"weight": torch.randn(6, 4), "bias": torch.randn(6)}
    save_file(weights, tmp_path / "own.safetensors")
    module, receipt = apr.load_verified(torch.nn.Linear(4, 6), tmp_path / "own.safetensors", device="cuda")
    assert receipt.tensors_written == 2
    assert torch.equal(module.weight.cpu(), weights["weight"])
    with torch.no_grad():
        module.weight[0, 0] += 1
    with pytest.raises(RefusedError):
        apr.verify_loaded(module, tmp_path / "own.safetensors")


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"tf32": True}, {"fp16": True}])
def test_the_trainer_starts_on_the_device_and_a_changed_weight_stops_it(
    train: Callable[..., Any],  # noqa: F811
    trained: Path,
    recorded_loss: float,
    precision: dict[str, bool],
) -> None:
    options = {"use_cpu": False, **precision}
    callback = apr.hf.VerifyCallback(trained, expected_loss=recorded_loss)
    trainer = train(moved_there(trained), callback, **options)
    assert trainer.state.global_step == 2
    changed = moved_there(trained)
    with torch.no_grad():
        changed.model.norm.weight[0] += 1
    assert "INV-INIT-RECEIPT-001" in refusing_ids(lambda: train(changed, apr.hf.VerifyCallback(trained), **options))


def sharded_there(model: Any) -> Any:
    return sharded(model, "cuda")


def flat_there(model: Any) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cuda", 0))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with process_group_of_one("nccl", tmp_path_factory.mktemp("store")):
        yield


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [distributed, sharded_there, flat_there])
def test_a_wrapped_model_on_the_device(one_device: None, qwen2: Path, wrap: Callable[[Any], Any]) -> None:
    assert apr.verify_loaded(wrap(moved_there(qwen2)), qwen2).tensors_written
    changed = moved_there(qwen2)
    changed.model.norm.weight.data[0] += 1
    assert refusing_ids(lambda: apr.verify_loaded(wrap(changed), qwen2)) == {"INV-INIT-RECEIPT-001"}
