"""Models inside what training wraps around them: the same proof, the same refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import apr
from apr.errors import RefusedError
from apr.library.wrappers import unwrap, unwrapped_names
from tests.library.conftest import process_group_of_one, refusing_ids


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one, on the CPU."""
    with process_group_of_one("gloo", tmp_path_factory.mktemp("store")):
        yield


def data_parallel(model: Any) -> Any:
    return torch.nn.DataParallel(model)


def distributed(model: Any) -> Any:
    return torch.nn.parallel.DistributedDataParallel(model)


def compiled(model: Any) -> Any:
    return torch.compile(model)


def compiled_inside(model: Any) -> Any:
    model.model.layers[0] = torch.compile(model.model.layers[0])
    return model


def compiled_and_distributed(model: Any) -> Any:
    return torch.nn.parallel.DistributedDataParallel(torch.compile(model))


def checkpointed(model: Any) -> Any:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model.model.layers[1] = checkpoint_wrapper(model.model.layers[1])
    return model


def sharded(model: Any, device: str = "cpu") -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def flat(model: Any, **options: Any) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **options)


def flat_with_original_parameters(model: Any) -> Any:
    return flat(model, use_orig_params=True)


WRAPPINGS = [
    data_parallel,
    distributed,
    compiled,
    compiled_inside,
    compiled_and_distributed,
    checkpointed,
    sharded,
    flat,
    flat_with_original_parameters,
]


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize("source", ["qwen2", "tied_bfloat16"])
def test_a_wrapped_model_is_proven_and_a_changed_one_refused(
    one_process: None, request: pytest.FixtureRequest, source: str, wrap: Callable[[Any], Any]
) -> None:
    path = request.getfixturevalue(source)
    count = apr.load_verified(None, path)[1].tensors_written
    assert apr.verify_loaded(wrap(load(path)), path).tensors_written == count
    changed = load(path)
    changed.model.norm.weight.data[0] += 1
    assert refusing_ids(lambda: apr.verify_loaded(wrap(changed), path)) == {"INV-INIT-RECEIPT-001"}


def test_unwrapping_gives_the_model_itself(one_process: None, qwen2: Path) -> None:
    model = load(qwen2)
    assert unwrap(torch.compile(distributed(model))).module is model
    assert unwrap(model).module is model


def test_a_part_called_module_is_the_models_own() -> None:
    own = torch.nn.Module()
    own.module = torch.nn.Linear(2, 2)
    assert unwrap(own).module is own
    assert unwrapped_names(["module.weight"]) == {"module.weight": "module.weight"}


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_names_that_become_one_are_refused() -> None:
    with pytest.raises(RefusedError, match="have one name once wrapper parts are taken out"):
        unwrapped_names(["layer._orig_mod.weight", "layer.weight"])
