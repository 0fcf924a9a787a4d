"""Several threads at once: what one of them verifies changes nothing for the others, nor for the process afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import apr
import apr.hf


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def at_once(*works: Callable[[], Any]) -> list[Exception]:
    """Run every work in a thread of its own; what they raised."""
    raised: list[Exception] = []

    def run(work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # A thread's error is only seen if it is kept.
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(former)


def test_two_threads_that_verify_leave_torch_as_it_was(qwen2: Path) -> None:
    from transformers import PreTrainedModel

    before = (torch.nn.Module.register_parameter, PreTrainedModel.init_weights, torch.nn.init.normal_)
    models = [load(qwen2), load(qwen2)]

    def verify(model: Any) -> None:
        for _ in range(8):
            apr.verify_loaded(model, qwen2)

    assert not at_once(*(partial(verify, model) for model in models))
    assert (torch.nn.Module.register_parameter, PreTrainedModel.init_weights, torch.nn.init.normal_) == before
    assert torch.get_default_dtype() is torch.float32
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


def test_modules_built_while_another_thread_verifies_are_as_ever(qwen2: Path) -> None:
    model, done = load(qwen2), threading.Event()
    built: list[str] = []

    def verify() -> None:
        try:
            for _ in range(10):
                apr.verify_loaded(model, qwen2)
        finally:
            done.set()

    def build() -> None:
        while not done.is_set():
            layer = torch.nn.Linear(2, 2)
            built.append(layer.weight.device.type if bool(layer.weight.any()) else "not initialised")

    assert not at_once(verify, build)
    assert set(built) == {"cpu"}


def test_strict_loads_in_two_threads_are_proven(tied_bfloat16: Path) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedModel

    before = PreTrainedModel.tie_weights

    def load_often() -> None:
        for _ in range(4):
            apr.hf.from_pretrained(AutoModelForCausalLM, tied_bfloat16)

    def load_verified_often() -> None:
        for _ in range(4):
            apr.load_verified(None, tied_bfloat16)

    assert not at_once(load_often, load_often)
    assert not at_once(load_verified_often, load_verified_often)
    assert not at_once(load_often, load_verified_often)
    assert PreTrainedModel.tie_weights is before
    assert torch.get_default_dtype() is torch.float32
