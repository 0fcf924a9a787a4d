"""One thread at a time where classes of the zoo are patched for the whole process."""

from __future__ import annotations

import threading

ZOO_LOCK = threading.RLock()
"""transformers' own `from_pretrained` is not made for two threads: it takes `tie_weights` out of its base class and
sets torch's default dtype while it builds a model, and two such blocks that overlap leave the process without ties.
What is called from here, and the building of references, waits for each other."""
