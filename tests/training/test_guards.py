"""Schedule, regimes, guards and statuses: tables of pure functions."""

from __future__ import annotations

import math

import pytest

from apr.errors import GuardStopError
from apr.gates.finding import Status
from apr.training.budget import check_budget
from apr.training.guards import (
    RunStatus,
    check_step,
    check_validation,
    earned_status,
    epoch_zero_cap,
    is_out_of_patience,
)
from apr.training.schedule import REGIMES, Mode, Schedule


def test_warm_up_rises_to_the_peak_and_the_cosine_falls_to_the_floor() -> None:
    schedule = Schedule(peak=1e-3, warmup_steps=10, total_steps=110)
    assert [schedule.learning_rate(step) for step in (1, 5, 10)] == pytest.approx([1e-4, 5e-4, 1e-3])
    assert schedule.learning_rate(60) == pytest.approx((1e-3 + 1e-5) / 2)
    assert schedule.learning_rate(110) == pytest.approx(1e-5)
    rates = [schedule.learning_rate(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("peak", "floor"), [(1e-3, 1e-5), (5e-6, 1e-7), (5e-8, 5e-8)])
def test_the_floor_is_a_hundredth_of_the_peak_within_bounds(peak: float, floor: float) -> None:
    assert Schedule(peak, 0, 10).floor == pytest.approx(floor)


def test_a_schedule_without_warm_up_or_shorter_than_it_stays_defined() -> None:
    assert Schedule(1e-3, 0, 10).learning_rate(10) == pytest.approx(1e-5)
    assert Schedule(1e-3, 100, 10).learning_rate(10) == pytest.approx(1e-4)
    assert Schedule(1e-3, 10, 10).learning_rate(10) == pytest.approx(1e-3)


def test_the_two_regimes_are_upstreams() -> None:
    finetune, scratch = REGIMES[Mode.FINETUNE], REGIMES[Mode.FROM_SCRATCH]
    assert (finetune.learning_rate, finetune.warmup_steps, finetune.target_validation_loss) == (5e-5, 100, 2.2)
    assert (scratch.learning_rate, scratch.warmup_steps, scratch.target_validation_loss) == (3e-4, 1000, 3.0)
    assert epoch_zero_cap(finetune.epoch_zero_cap, 50_257) == 10.0
    assert epoch_zero_cap(scratch.epoch_zero_cap, 50_257) == pytest.approx(21.65, abs=0.01)


@pytest.mark.planted_defect("GATE-TRAIN-007")
@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_numbers_that_are_not_finite_stop_the_step(loss: float, norm: float) -> None:
    check_step(3, 2.0, 1.0)
    with pytest.raises(GuardStopError, match="of step 3 is not finite") as caught:
        check_step(3, loss, norm)
    assert (caught.value.invariant, caught.value.exit_code) == ("INV-TRAIN-007", 6)


@pytest.mark.planted_defect("GATE-TRAIN-005")
@pytest.mark.falsifies("FALSIFY-TRAIN-005")
@pytest.mark.parametrize(
    ("losses", "is_fatal"),
    [
        ([10.0], False),
        ([10.01], True),
        ([3.0, 6.0], False),
        ([3.0, 6.001], True),
        ([3.0, 2.0, 4.5], True),
        ([9.0, 3.0, 5.9], False),
        ([3.0, math.nan], True),
        ([math.inf], True),
    ],
)
def test_exactly_double_goes_on_and_more_is_fatal(losses: list[float], is_fatal: bool) -> None:
    if is_fatal:
        with pytest.raises(GuardStopError, match="diverged"):
            check_validation(losses, cap=10.0)
    else:
        check_validation(losses, cap=10.0)


@pytest.mark.falsifies("FALSIFY-TRAIN-004")
def test_patience_ends_a_run_that_stands_still_after_seven_epochs_and_not_before() -> None:
    standing = [3.0] + [3.1] * 20
    ends = [count for count in range(1, 21) if is_out_of_patience(standing[:count])]
    assert ends[0] == 7
    assert not any(is_out_of_patience([3.0 - 0.01 * step for step in range(count)]) for count in range(1, 30))


@pytest.mark.falsifies("FALSIFY-TRAIN-003")
@pytest.mark.planted_defect("GATE-TRAIN-003")
@pytest.mark.parametrize(
    ("loss", "steps", "early", "status"),
    [
        (2.2, 10, False, RunStatus.TARGET_MET),
        (2.2001, 10, False, RunStatus.BUDGET_EXHAUSTED),
        (4.62, 10, True, RunStatus.EARLY_STOP),
        (2.0, 10, True, RunStatus.TARGET_MET),
        (2.0, 0, False, RunStatus.BUDGET_EXHAUSTED),
        (None, 0, False, RunStatus.BUDGET_EXHAUSTED),
    ],
)
def test_a_status_is_never_better_than_earned(loss: float | None, steps: int, early: bool, status: RunStatus) -> None:
    assert earned_status(last_validation_loss=loss, target=2.2, steps_done=steps, is_early_stop=early) is status


@pytest.mark.parametrize(
    ("steps", "forced", "status"),
    [
        (0, False, Status.PASS),
        (99, False, Status.REFUSE),
        (99, True, Status.UNCHECKED),
        (100, False, Status.PASS),
        (300, False, Status.PASS),
    ],
)
@pytest.mark.planted_defect("INV-TRAIN-BUDGET-001")
@pytest.mark.falsifies("FALSIFY-TRAIN-BUDGET-001")
def test_ten_tokens_per_parameter_are_asked_of_a_run_from_a_checkpoint(
    steps: int, forced: bool, status: Status
) -> None:
    finding = check_budget(parameters=1000, tokens_per_step=100, steps=steps, is_from_checkpoint=True, is_forced=forced)
    assert finding.status is status
    assert "per parameter" in (finding.found or finding.message)
    free = check_budget(parameters=1000, tokens_per_step=1, steps=1, is_from_checkpoint=False, is_forced=False)
    assert free.status is Status.PASS
