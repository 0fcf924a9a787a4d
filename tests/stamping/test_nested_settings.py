"""`--set` of a value inside an object of a config: it lands where models read it, or nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from apr.errors import UsageError
from apr.formats.registry import open_checkpoint
from apr.gates.finding import Status
from apr.gates.road import examine
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.tiny_models import save_tiny

THETA = "rope_parameters.rope_theta"


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose record pins the config, as an export of ours writes it."""
    folder = tmp_path_factory.mktemp("pinned")
    source = save_tiny(folder / "source", "qwen2")
    assert run(["import", str(source), "-o", str(folder / "model.apr")]) == 0
    assert run(["export", str(folder / "model.apr"), "--format", "hf", "-o", str(folder / "hf")]) == 0
    return folder


@pytest.fixture
def directory(pinned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pinned / "hf", tmp_path / "hf"))


def config_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "config.json").read_text())
    return document


def drift(path: Path, theta: float) -> None:
    config = config_of(path)
    config["rope_parameters"]["rope_theta"] = theta
    (path / "config.json").write_text(json.dumps(config))


def set_in(path: Path, **settings: Any) -> None:
    changes = StampChanges(settings={key.replace("__", "."): value for key, value in settings.items()})
    stamp_file(path, changes, in_place=True)


def refusing(path: Path) -> set[str]:
    return {finding.id for finding in examine(path).findings if finding.status is Status.REFUSE}


def test_the_value_inside_the_object_is_set_and_the_rest_of_it_stays(directory: Path) -> None:
    before = config_of(directory)
    set_in(directory, rope_parameters__rope_theta=500.0)
    assert config_of(directory) == {**before, "rope_parameters": {**before["rope_parameters"], "rope_theta": 500.0}}
    assert refusing(directory) == set()
    stamp_file(directory, StampChanges(), in_place=True, undo=True)
    assert config_of(directory) == before


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_drifted_value_stays_refused_until_it_is_the_right_one(directory: Path) -> None:
    right = config_of(directory)["rope_parameters"]["rope_theta"]
    drift(directory, 500.0)
    assert refusing(directory) == {"INV-INIT-CONFIG-001"}
    set_in(directory, rope_parameters__rope_theta=right)
    assert config_of(directory)["rope_parameters"]["rope_theta"] == right
    assert refusing(directory) == set()


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_value_that_was_declared_and_drifts_again_is_refused(directory: Path) -> None:
    set_in(directory, rope_parameters__rope_theta=500.0)
    assert refusing(directory) == set()
    drift(directory, 777.0)
    assert refusing(directory) == {"INV-INIT-CONFIG-001"}


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_key_of_that_spelling_declares_nothing(directory: Path) -> None:
    drift(directory, 500.0)
    config = config_of(directory)
    (directory / "config.json").write_text(json.dumps({**config, THETA: 10000.0}))
    set_in(directory, **{THETA: 20000.0})
    assert refusing(directory) == {"INV-INIT-CONFIG-001"}


def test_the_printed_command_for_an_unusable_value_works(directory: Path) -> None:
    drift(directory, 0.0)
    (directory / "apr.json").unlink()
    (finding,) = [each for each in examine(directory).findings if each.status is Status.REFUSE]
    assert f"--set {THETA}=VALUE" in str(finding.remedy)
    set_in(directory, **{THETA: 10000.0})
    assert refusing(directory) == set()


def test_an_apr_file_gets_it_in_its_embedded_config_and_nowhere_else(pinned: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(pinned / "model.apr", tmp_path))
    set_in(path, rope_parameters__rope_theta=500.0)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config is not None
        assert checkpoint.config["rope_parameters"]["rope_theta"] == 500.0
        assert checkpoint.typed["rope_theta"] == 500.0
        assert THETA not in checkpoint.metadata
    set_in(path, rope_parameters__rope_type="default")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config is not None
        assert checkpoint.config["rope_parameters"] == {"rope_theta": 500.0, "rope_type": "default"}
        assert "rope_parameters.rope_type" not in checkpoint.metadata


@pytest.mark.parametrize(
    "name", ["no_such.rope_theta", "hidden_size.value", "rope_parameters.rope_theta.base", "rope_parameters."]
)
def test_a_name_that_leads_nowhere_is_refused(directory: Path, name: str) -> None:
    before = (directory / "config.json").read_bytes()
    with pytest.raises(UsageError, match="has no object that this name leads into") as caught:
        set_in(directory, **{name: 1.0})
    assert caught.value.where == f"--set {name}"
    assert (directory / "config.json").read_bytes() == before
