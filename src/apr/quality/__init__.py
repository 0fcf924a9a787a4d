"""How ship-ready a checkpoint is: a score that pays for truth, and exact statistics of its tensors."""
