"""Whether a run sees enough tokens for the parameters it moves (the Chinchilla pre-flight)."""

from __future__ import annotations

from apr.gates.finding import Finding, Status

# Hoffmann et al. 2022 (Chinchilla) put the optimum near 20 tokens per parameter; upstream refuses below half of it.
SMALLEST_TOKENS_PER_PARAMETER = 10.0
ADVISED_TOKENS_PER_PARAMETER = 20.0
ID = "INV-TRAIN-BUDGET-001"


def check_budget(
    *, parameters: int, tokens_per_step: int, steps: int, is_from_checkpoint: bool, is_forced: bool
) -> Finding:
    """The finding for D = steps x tokens per step over N = parameters; runs from scratch and of 0 steps are exempt."""
    tokens = steps * tokens_per_step
    ratio = tokens / max(1, parameters)
    shown = f"{tokens:,} tokens for {parameters:,} parameters, {ratio:.2f} per parameter"
    if not is_from_checkpoint or steps == 0:
        why = "trains from scratch" if steps else "trains no step"
        return Finding(ID, Status.PASS, f"{shown}; the run {why}, so no least number is asked for")
    if ratio >= ADVISED_TOKENS_PER_PARAMETER:
        return Finding(ID, Status.PASS, shown)
    if ratio >= SMALLEST_TOKENS_PER_PARAMETER:
        return Finding(ID, Status.PASS, f"{shown}; {ADVISED_TOKENS_PER_PARAMETER:g} or more are advised")
    if is_forced:
        message = f"let through by --force-under-provisioned: {shown}"
        return Finding(ID, Status.UNCHECKED, message, f"at least {SMALLEST_TOKENS_PER_PARAMETER:g} per parameter")
    steps_needed = -(-int(SMALLEST_TOKENS_PER_PARAMETER * parameters) // tokens_per_step)
    return Finding(
        ID,
        Status.REFUSE,
        "the run is too short for the size of the model",
        expected=f"at least {SMALLEST_TOKENS_PER_PARAMETER:g} tokens per parameter, {steps_needed:,} steps",
        found=shown,
        remedy="raise --num-steps, or add --force-under-provisioned to train all the same",
    )
