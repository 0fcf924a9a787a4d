"""A refusal shows the command the user typed, with the repaired checkpoint in place of the refused one."""

import click
import pytest

from apr.cli import pretrain


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("", ""),
        ("--num-steps 5 --lr 1e-4", "--lr 0.0001 --num-steps 5"),
        ("--no-shard-cycle --force-under-provisioned", "--no-shard-cycle --force-under-provisioned"),
        ("--allow a.b=why --allow c=that", "--allow a.b=why --allow c=that"),
    ],
)
def test_the_typed_options_come_back(typed, kept):
    required = ["--dataset", "d", "--tokenizer", "t", "--run-dir", "r"]
    context = pretrain.command.make_context("pretrain", [*required, "--init", "lie.apr", *typed.split()])
    with context:
        words = pretrain._words_to_retry(click.get_current_context())
    assert words == (*required, *kept.split())
