"""The same run on a GPU: no silent CPU, receipts and buffers read back from the device, the loss continued."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apr.errors import RefusedError
from apr.gates.finding import Status
from apr.gates.road import examine, load, try_load
from apr.loading import materialise as materialise_module
from apr.training.run import pretrain
from tests.training.conftest import scratch_options

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def cuda_run(shards, tokenizer, tmp_path_factory):
    return pretrain(scratch_options(shards, tokenizer, tmp_path_factory.mktemp("cuda") / "run", device="cuda"))


@pytest.fixture
def make_options(shards, tokenizer):
    return lambda directory: scratch_options(shards, tokenizer, directory)


def test_a_run_on_cuda_trains_there_and_its_checkpoint_says_so(cuda_run):
    metadata = json.loads(cuda_run.checkpoints[-1].with_suffix(".metadata.json").read_text())
    assert metadata["device"].startswith("cuda")
    assert cuda_run.final_validation_loss < cuda_run.step0.val_loss
    assert torch.cuda.max_memory_allocated() > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_loss_continues_across_devices(cuda_run, make_options, tmp_path, device):
    options = replace(
        make_options(tmp_path / "second"),
        init=cuda_run.checkpoints[-1],
        architecture=None,
        config_changes={},
        device=device,
        steps=0,
        force_under_provisioned=True,
    )
    second = pretrain(options)
    assert second.step0.val_loss == pytest.approx(cuda_run.final_validation_loss, rel=1e-4)


def test_the_receipt_is_read_back_from_the_device(cuda_run):
    loaded = load(examine(Path(cuda_run.checkpoints[-1])), device="cuda")
    assert next(loaded.model.parameters()).is_cuda
    statuses = {finding.id: finding.status for finding in loaded.examination.findings}
    for gate_id in ("INV-INIT-RECEIPT-001", "INV-INIT-BUFFERS-001", "INV-INIT-PROBE-001"):
        assert statuses[gate_id] is Status.PASS


@pytest.mark.parametrize(
    ("change", "gate_id"),
    [
        (lambda model: model.model.norm.weight.add_(1e-3), "INV-INIT-RECEIPT-001"),
        (lambda model: model.model.rotary_emb.inv_freq.mul_(1.01), "INV-INIT-BUFFERS-001"),
    ],
)
def test_a_change_after_the_load_is_refused_on_the_device(cuda_run, monkeypatch, change, gate_id):
    original = materialise_module.materialise

    def tampered(checkpoint, plan, **keywords):
        done = original(checkpoint, plan, **keywords)
        with torch.no_grad():
            change(done.model)
        return done

    monkeypatch.setattr(materialise_module, "materialise", tampered)
    examination = try_load(examine(Path(cuda_run.checkpoints[-1])), device="cuda")[1]
    assert gate_id in {finding.id for finding in examination.refusals}


def test_a_device_that_is_not_there_is_refused_before_a_run_directory_exists(make_options, tmp_path):
    with pytest.raises(RefusedError, match="INV-GPUTRAIN-002"):
        pretrain(replace(make_options(tmp_path / "run"), device=f"cuda:{min(torch.cuda.device_count(), 15)}"))
    assert not (tmp_path / "run").exists()


def test_bfloat16_on_cuda_continues_its_own_loss(make_options, tmp_path):
    first = pretrain(replace(make_options(tmp_path / "first"), device="cuda", dtype="bfloat16"))
    again = replace(
        make_options(tmp_path / "second"),
        init=first.checkpoints[-1],
        architecture=None,
        config_changes={},
        device="cuda",
        steps=0,
        force_under_provisioned=True,
    )
    assert pretrain(again).step0.val_loss == pytest.approx(first.final_validation_loss, rel=1e-3)
