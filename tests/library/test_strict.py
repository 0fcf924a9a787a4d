"""`apr.hf.from_pretrained` and `apr.hf.strict()`: transformers loads, and hands back nothing but the named weights."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import apr
import apr.hf
from apr.errors import RefusedError
from tests.library.conftest import refusal_of, refusing_ids
from tests.tiny_models import relabel, save_tiny


def zoo(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def originals() -> list[Any]:
    names = ("PreTrainedModel", "AutoModelForCausalLM", "AutoModel", "Qwen2ForCausalLM")
    return [zoo(name).from_pretrained.__func__ for name in names]


@pytest.fixture(autouse=True)
def everything_is_put_back() -> Iterator[None]:
    before = originals()
    yield
    assert originals() == before


@pytest.fixture
def mislabelled(qwen2: Path, tmp_path: Path) -> Path:
    return relabel(Path(shutil.copytree(qwen2, tmp_path / "mislabelled")), "llama", "LlamaForCausalLM")


@pytest.fixture
def incomplete(qwen2: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(qwen2, tmp_path / "incomplete"))
    state = load_file(copy / "model.safetensors")
    state.pop("model.layers.0.mlp.gate_proj.weight")
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


CLASSES = ["AutoModelForCausalLM", "AutoModel", "Qwen2ForCausalLM"]


def strictly(name: str, path: Path, **options: Any) -> Any:
    return apr.hf.from_pretrained(zoo(name), path, **options)


def in_a_block(name: str, path: Path, **options: Any) -> Any:
    terms = {key: options.pop(key) for key in ("allowed_tensors", "allowed_gates") if key in options}
    with apr.hf.strict(**terms):
        return zoo(name).from_pretrained(path, **options)


ROADS = pytest.mark.parametrize("road", [strictly, in_a_block])


@ROADS
@pytest.mark.parametrize("name", CLASSES)
def test_a_sound_model_comes_back_as_transformers_loads_it(
    tied_bfloat16: Path, road: Callable[..., Any], name: str
) -> None:
    model = road(name, tied_bfloat16)
    theirs = zoo(name).from_pretrained(tied_bfloat16)
    assert type(model) is type(theirs)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in theirs.state_dict().items())


@ROADS
@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("name", ["AutoModelForCausalLM", "AutoModel", "LlamaForCausalLM"])
def test_the_founding_story_raises(mislabelled: Path, road: Callable[..., Any], name: str) -> None:
    error = refusal_of(lambda: road(name, mislabelled))
    assert error.invariant == "INV-INIT-ARCH-MATCH-001"
    assert "apr stamp" in str(error)


@ROADS
@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize("name", CLASSES)
def test_a_tensor_that_transformers_would_initialise_raises(
    incomplete: Path, road: Callable[..., Any], name: str
) -> None:
    reason = {"INV-INIT-ARCH-MATCH-001": "to reach the proof after the load"}
    assert "INV-INIT-COVERAGE-001" in refusing_ids(lambda: road(name, incomplete, allowed_gates=reason))
    assert "INV-INIT-COVERAGE-001" in refusing_ids(lambda: road(name, incomplete))


@ROADS
@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_silent_cast_raises_and_a_named_one_passes(qwen2: Path, road: Callable[..., Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    config = (copy / "config.json").read_text().replace('"float32"', '"bfloat16"')
    (copy / "config.json").write_text(config)
    assert refusing_ids(lambda: road("AutoModelForCausalLM", copy)) == {"INV-INIT-RECEIPT-001"}
    assert road("AutoModelForCausalLM", copy, dtype=torch.bfloat16).dtype is torch.bfloat16
    assert road("AutoModelForCausalLM", copy, dtype="float32").dtype is torch.float32


@ROADS
@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_new_head_passes_when_it_is_named(tied_bfloat16: Path, road: Callable[..., Any]) -> None:
    name = "AutoModelForSequenceClassification"
    assert refusing_ids(lambda: road(name, tied_bfloat16)) == {"INV-INIT-COVERAGE-001"}
    model = road(name, tied_bfloat16, allowed_tensors={"score.weight": "trained in this run"})
    assert type(model).__name__ == "Qwen2ForSequenceClassification"


@ROADS
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gguf_file": "model.gguf"}, "gguf_file"),
        ({"quantization_config": object()}, "quantization_config"),
        ({"variant": "fp16"}, "variant"),
        ({"state_dict": {"a": 1}}, "no source is named"),
    ],
)
def test_a_load_that_cannot_be_proven_is_refused_before_it_starts(
    qwen2: Path, road: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    error = refusal_of(lambda: road("AutoModelForCausalLM", qwen2, **options))
    assert "cannot be verified here" in str(error)
    assert said in str(error)


def test_the_loading_report_is_handed_through(qwen2: Path) -> None:
    with apr.hf.strict():
        model, report = zoo("AutoModelForCausalLM").from_pretrained(qwen2, output_loading_info=True)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert not report["missing_keys"]


def test_blocks_nest_each_with_its_own_terms(tied_bfloat16: Path) -> None:
    name = "AutoModelForSequenceClassification"
    with apr.hf.strict(allowed_tensors={"score.weight": "new"}):
        zoo(name).from_pretrained(tied_bfloat16)
        with apr.hf.strict(), pytest.raises(RefusedError):
            zoo(name).from_pretrained(tied_bfloat16)
        zoo(name).from_pretrained(tied_bfloat16)


def test_an_exception_leaves_nothing_behind(qwen2: Path, mislabelled: Path) -> None:
    with pytest.raises(RefusedError), apr.hf.strict(), apr.hf.strict():
        zoo("AutoModelForCausalLM").from_pretrained(mislabelled)
    with pytest.raises(ZeroDivisionError), apr.hf.strict():
        raise ZeroDivisionError
    zoo("AutoModelForCausalLM").from_pretrained(mislabelled)


def test_a_block_in_one_thread_makes_loads_in_others_strict_until_the_last_block_ends(
    qwen2: Path, mislabelled: Path
) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold_a_block() -> None:
        with apr.hf.strict():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold_a_block)
    thread.start()
    inside.wait(30)
    try:
        with pytest.raises(RefusedError):
            zoo("AutoModelForCausalLM").from_pretrained(mislabelled)
        with apr.hf.strict():
            pass
        with pytest.raises(RefusedError):
            zoo("AutoModelForCausalLM").from_pretrained(mislabelled)
    finally:
        leave.set()
        thread.join()
    zoo("AutoModelForCausalLM").from_pretrained(mislabelled)


def test_the_road_of_apr_itself_goes_through_a_block(qwen2: Path) -> None:
    with apr.hf.strict():
        model, receipt = apr.load_verified(None, qwen2)
        apr.verify_loaded(model, qwen2)
    assert receipt.tensors_written == 27


def test_a_class_of_ones_own_that_overrides_is_strict_too(qwen2: Path, mislabelled: Path) -> None:
    calls = []

    class Own(zoo("Qwen2ForCausalLM")):  # type: ignore[misc]
        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return super().from_pretrained(*args, **kwargs)

    with apr.hf.strict():
        assert isinstance(Own.from_pretrained(qwen2), Own)
        with pytest.raises(RefusedError):
            Own.from_pretrained(mislabelled)
    assert calls == [(qwen2,)]
    del Own


@contextmanager
def hub_cache(source: Path, cache: Path) -> Iterator[str]:
    """A cache as huggingface_hub leaves it behind after a download of `source` as `organisation/tiny`."""
    commit = "0123456789012345678901234567890123456789"
    repository = cache / "models--organisation--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    yield "organisation/tiny"


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_hub_id_is_verified_against_the_local_cache(qwen2: Path, mislabelled: Path, tmp_path: Path) -> None:
    offline: dict[str, Any] = {"local_files_only": True}
    with hub_cache(qwen2, tmp_path / "good") as name, apr.hf.strict():
        model = zoo("Qwen2ForCausalLM").from_pretrained(name, cache_dir=tmp_path / "good", **offline)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    with hub_cache(mislabelled, tmp_path / "bad") as name, apr.hf.strict():
        ids = refusing_ids(lambda: zoo("LlamaForCausalLM").from_pretrained(name, cache_dir=tmp_path / "bad", **offline))
    assert "INV-INIT-ARCH-MATCH-001" in ids


def test_a_hub_id_that_is_not_in_the_cache_says_that_it_cannot_be_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = refusal_of(lambda: apr.load_verified(None, "organisation/absent"))
    assert "organisation/absent cannot be verified" in str(error)
    assert "hf download organisation/absent" in str(error)


def test_a_checkpoint_in_a_subfolder_is_found(tmp_path: Path) -> None:
    save_tiny(tmp_path / "run" / "best", "qwen2")
    with apr.hf.strict():
        zoo("Qwen2ForCausalLM").from_pretrained(tmp_path / "run", subfolder="best")


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_key_mapping_that_renames_is_refused_with_a_way_that_works(qwen2: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    copy = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    state = {f"backbone.{name}": value for name, value in load_file(copy / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    mapping = {"^backbone.": ""}
    error = refusal_of(lambda: apr.hf.from_pretrained(AutoModelForCausalLM, copy, key_mapping=mapping))
    assert "key_mapping renames 27 of them" in str(error)
    reason = {"INV-INIT-ARCH-MATCH-001": "names of another producer"}
    model = AutoModelForCausalLM.from_pretrained(copy, key_mapping=mapping)
    assert apr.verify_loaded(model, copy, allowed_gates=reason).tensors_written == 27
    apr.hf.from_pretrained(AutoModelForCausalLM, qwen2, key_mapping=mapping)
