"""Directories with the weights of a variant only, as `save_pretrained(variant="fp16")` writes them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from apr.errors import DamagedFileError
from apr.formats.registry import open_checkpoint
from tests.tiny_models import tiny_model


@pytest.mark.parametrize("shard_size", ["5GB", "60KB"], ids=["one file", "shards"])
def test_the_way_out_that_is_printed_makes_them_found(tmp_path: Path, shard_size: str) -> None:
    path = tmp_path / "a model"
    model = tiny_model("llama", tie_word_embeddings=False).half()
    model.save_pretrained(path, variant="fp16", max_shard_size=shard_size)
    with pytest.raises(DamagedFileError, match="under the name of a variant") as caught:
        open_checkpoint(path)
    command = str(caught.value.remedy).partition(": ")[2]
    assert command.startswith("ln -s ")
    subprocess.run(shlex.split(command), check=True)
    with open_checkpoint(path) as checkpoint:
        assert {*checkpoint.tensors} == {*model.state_dict()}
        assert checkpoint.contradictions == ()
