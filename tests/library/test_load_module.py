"""`apr.load_verified` with modules of the user's own: filled whole and proven, or left untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model

import apr
from apr.errors import UsageError
from tests.library.conftest import refusal_of, refusing_ids


class Network(torch.nn.Module):
    """An embedding, a norm, a saved buffer, a derived buffer, and a head that may be tied."""

    def __init__(self, *, is_tied: bool = False, width: int = 16) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(40, width)
        self.norm = torch.nn.LayerNorm(width)
        self.middle = torch.nn.Linear(width, width)
        self.head = torch.nn.Linear(width, 40, bias=False)
        self.register_buffer("scale", torch.rand(3))
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        if is_tied:
            self.head.weight = self.embed.weight


def on_meta(**options: Any) -> Network:
    """Parameters and the saved buffer without memory, the derived buffer as it must be."""
    with torch.device("meta"):
        network = Network(**options)
    network.table = torch.arange(4.0)
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    network, path = Network(), tmp_path_factory.mktemp("module") / "network.safetensors"
    save_file(network.state_dict(), path)
    return network, path


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    own, others = one.state_dict(), other.state_dict()
    return own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)


@pytest.mark.parametrize("make", [Network, on_meta], ids=["in memory", "on meta"])
def test_every_tensor_is_filled_and_read_back(saved: tuple[Network, Path], make: Callable[[], Network]) -> None:
    network, path = saved
    model, receipt = apr.load_verified(make(), path)
    assert equal(model, network)
    assert receipt.tensors_written == 7
    assert set(receipt.resident_digests) == set(network.state_dict())


def test_a_module_is_filled_in_place(saved: tuple[Network, Path]) -> None:
    module = Network()
    optimizer = torch.optim.AdamW(module.parameters())
    model, _ = apr.load_verified(module, saved[1])
    assert model is module
    assert optimizer.param_groups[0]["params"][0] is module.embed.weight


def test_a_factory_gets_the_config_and_has_its_derived_buffers_compared(saved: tuple[Network, Path]) -> None:
    model, _ = apr.load_verified(lambda config: Network(width=config["width"]), saved[1], config={"width": 16})
    assert equal(model, saved[0])


@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
def test_a_derived_buffer_that_differs_from_build_to_build_is_refused(saved: tuple[Network, Path]) -> None:
    class Careless(Network):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.rand(4), persistent=False)

    assert refusing_ids(lambda: apr.load_verified(Careless, saved[1])) == {"INV-INIT-BUFFERS-001"}


@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
def test_a_derived_buffer_without_memory_is_refused(saved: tuple[Network, Path]) -> None:
    with torch.device("meta"):
        module = Network()
    assert refusing_ids(lambda: apr.load_verified(module, saved[1])) == {"INV-INIT-BUFFERS-001"}


def renamed(network: torch.nn.Module, path: Path, rename: Callable[[str], str]) -> Path:
    save_file({rename(name): tensor for name, tensor in network.state_dict().items()}, path)
    return path


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_prefix_is_refused_until_it_is_mapped_away(saved: tuple[Network, Path], tmp_path: Path) -> None:
    network, path = saved[0], renamed(saved[0], tmp_path / "wrapped.safetensors", lambda name: f"module.{name}")
    module = Network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    error = refusal_of(lambda: apr.load_verified(module, path))
    assert error.invariant == "INV-INIT-COVERAGE-001"
    assert "module.embed.weight" in str(error)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    for name_map in (
        {f"module.{name}": name for name in network.state_dict()},
        lambda name: name.removeprefix("module."),
    ):
        model, receipt = apr.load_verified(Network(), path, name_map=name_map)
        assert equal(model, network)
        assert "module.embed.weight" in receipt.resident_digests


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize(
    ("name_map", "said"),
    [
        ({"head.weight": "embed.weight"}, "embed.weight is the target of embed.weight, head.weight"),
        ({"nowhere": "embed.weight"}, "nowhere is not in the checkpoint"),
        ({"embed.weight": "embedding.weight"}, "embedding.weight is not in the module"),
        (lambda name: "embed.weight", "embed.weight is the target of"),
    ],
)
def test_only_a_bijection_may_rename(saved: tuple[Network, Path], name_map: Any, said: str) -> None:
    error = refusal_of(lambda: apr.load_verified(Network(), saved[1], name_map=name_map))
    assert said in str(error)
    assert error.invariant == "INV-INIT-COVERAGE-001"


def test_two_names_may_change_places(saved: tuple[Network, Path], tmp_path: Path) -> None:
    swap = {"norm.weight": "norm.bias", "norm.bias": "norm.weight"}
    path = renamed(saved[0], tmp_path / "swapped.safetensors", lambda name: swap.get(name, name))
    model, _ = apr.load_verified(Network(), path, name_map=swap)
    assert equal(model, saved[0])


def change(path: Path, network: torch.nn.Module, **changes: torch.Tensor | None) -> Path:
    state = {**network.state_dict(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    return path


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"middle__bias": None}, "INV-INIT-COVERAGE-001"),
        ({"scale": None}, "INV-INIT-COVERAGE-001"),
        ({"middle__gain": torch.ones(16)}, "INV-INIT-COVERAGE-001"),
        ({"middle__weight": torch.rand(16, 8)}, "INV-INIT-SHAPE-001"),
        ({"embed__weight": torch.rand(40, 16).T.contiguous()}, "INV-INIT-SHAPE-001"),
        ({"middle__weight": torch.zeros(16, 16)}, "INV-INIT-VALUES-001"),
        ({"middle__bias": torch.full((16,), float("nan"))}, "INV-INIT-VALUES-001"),
    ],
)
def test_a_file_that_does_not_fit_whole_is_refused_and_the_module_left_alone(
    saved: tuple[Network, Path], tmp_path: Path, changes: dict[str, Any], gate: str
) -> None:
    path = change(tmp_path / "changed.safetensors", saved[0], **changes)
    module = Network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert refusing_ids(lambda: apr.load_verified(module, path)) == {gate}
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_an_allowed_tensor_keeps_its_own_value(saved: tuple[Network, Path], tmp_path: Path) -> None:
    path = change(tmp_path / "headless.safetensors", saved[0], head__weight=None)
    module = Network()
    own = module.head.weight.detach().clone()
    model, receipt = apr.load_verified(module, path, allowed_tensors={"head.weight": "trained in this run"})
    assert torch.equal(model.head.weight, own)
    assert receipt.tensors_written == 6


@pytest.mark.parametrize("make", [lambda: Network(is_tied=True), lambda: on_meta(is_tied=True)], ids=["memory", "meta"])
def test_a_tied_module_takes_a_file_that_holds_the_pair_once(tmp_path: Path, make: Callable[[], Network]) -> None:
    tied = Network(is_tied=True)
    save_model(tied, str(tmp_path / "tied.safetensors"))
    model, receipt = apr.load_verified(make(), tmp_path / "tied.safetensors")
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, tied.embed.weight)
    assert receipt.tensors_written == 6


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_an_untied_module_is_not_filled_from_half_a_pair(tmp_path: Path) -> None:
    save_model(Network(is_tied=True), str(tmp_path / "tied.safetensors"))
    assert refusing_ids(lambda: apr.load_verified(Network(), tmp_path / "tied.safetensors")) == {
        "INV-INIT-COVERAGE-001"
    }


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_a_tied_module_refuses_a_pair_of_different_tensors(saved: tuple[Network, Path]) -> None:
    assert refusing_ids(lambda: apr.load_verified(Network(is_tied=True), saved[1])) == {"INV-INIT-VALUES-001"}


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_rounding_has_to_be_declared_and_widening_not(saved: tuple[Network, Path], tmp_path: Path) -> None:
    assert refusing_ids(lambda: apr.load_verified(Network().bfloat16(), saved[1])) == {"INV-INIT-RECEIPT-001"}
    model, _ = apr.load_verified(Network().bfloat16(), saved[1], dtype="bfloat16")
    assert torch.equal(model.middle.weight, saved[0].middle.weight.bfloat16())
    half = Network().bfloat16()
    save_file(half.state_dict(), tmp_path / "half.safetensors")
    model, _ = apr.load_verified(Network(), tmp_path / "half.safetensors")
    assert torch.equal(model.middle.weight, half.middle.weight.float())


def test_memory_for_a_module_on_meta_comes_in_the_declared_dtype(saved: tuple[Network, Path]) -> None:
    model, _ = apr.load_verified(on_meta(), saved[1], dtype=torch.bfloat16)
    assert model.middle.weight.dtype is torch.bfloat16


def test_a_zoo_instance_is_filled_too(qwen2: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(qwen2)
    model, receipt = apr.load_verified(transformers.Qwen2ForCausalLM(config), qwen2)
    assert receipt.tensors_written == 27
    apr.verify_loaded(model, qwen2)


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_zoo_instance_with_another_config_is_refused(qwen2: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(qwen2)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 500000.0}
    module = transformers.Qwen2ForCausalLM(config)
    assert "INV-INIT-CONFIG-001" in refusing_ids(lambda: apr.load_verified(module, qwen2))


def test_what_is_no_module_is_a_wrong_call(saved: tuple[Network, Path]) -> None:
    with pytest.raises(UsageError, match="nothing to load into"):
        apr.load_verified("Network", saved[1])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="makes no torch module"):
        apr.load_verified(dict, saved[1])
