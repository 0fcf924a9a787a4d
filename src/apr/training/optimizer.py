"""AdamW with decay where it belongs, and float32 master weights for parameters of lower precision.

A bfloat16 number keeps 8 bits of mantissa, so an update below 1/256 of a weight's size is rounded away; at learning
rates of fine-tuning nearly all are. Updates therefore go to float32 copies, made at the first step, and the rounded
copies go back into the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0


class Optimizer:
    """torch's AdamW over the trainable parameters of `model`; nothing is allocated before the first step.

    Matrices decay, vectors (biases, norm gains) do not. Gradients of all parameters are kept in float32.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        import torch

        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._lower = [parameter for parameter in self._parameters if parameter.dtype is not torch.float32]
        for parameter in self._lower:
            parameter.grad_dtype = torch.float32
        self._masters: dict[int, torch.Tensor] = {}
        self._adamw: torch.optim.AdamW | None = None
        self.steps_done = 0

    @property
    def state_count(self) -> int:
        """Tensors of optimizer state held; 0 before the first step."""
        return 0 if self._adamw is None else sum(len(state) for state in self._adamw.state.values())

    def clip(self) -> torch.Tensor:
        """The global L2 norm of all gradients before clipping; afterwards it is at most CLIP_NORM."""
        import torch

        norm: torch.Tensor = torch.nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        return norm

    def step(self, learning_rate: float) -> float:
        """Apply the gradients at `learning_rate`, drop them, and give the rate read back from the optimizer."""
        import torch

        adamw = self._adamw or self._build()
        for group in adamw.param_groups:
            group["lr"] = learning_rate
        for parameter in self._lower:
            gradient = parameter.grad
            self._masters[id(parameter)].grad = None if gradient is None else gradient.float()
        adamw.step()
        if self._lower:
            with torch.no_grad():
                masters = [self._masters[id(parameter)] for parameter in self._lower]
                torch._foreach_copy_([parameter.data for parameter in self._lower], masters)
            for master in masters:
                master.grad = None
        self.drop_gradients()
        self.steps_done += 1
        applied = {float(group["lr"]) for group in adamw.param_groups}
        return max(applied)

    def drop_gradients(self) -> None:
        """Forget the gradients, so that a step that was stopped never reaches the weights."""
        for parameter in self._parameters:
            parameter.grad = None

    def state_digest(self) -> str:
        """`blake3:<hex>` over every tensor and number of the optimizer's state by parameter name, and the settings of
        its groups: it changes when the state, the rate or the data of any step changes."""
        import json

        from blake3 import blake3

        from apr.loading.on_disk import tensor_bytes

        digest = blake3(b"apr.optimizer-state/1\n")
        digest.update(json.dumps({"steps": self.steps_done, "settings": self.settings()}, sort_keys=True).encode())
        if self._adamw is None:
            return "blake3:" + digest.hexdigest()
        for name, parameter in zip(self._names, self._parameters, strict=True):
            state = self._adamw.state.get(self._masters.get(id(parameter), parameter), {})
            for key in sorted(state):
                digest.update(f"{name}\n{key}\n".encode())
                digest.update(tensor_bytes(state[key]))
        return "blake3:" + digest.hexdigest()

    def settings(self) -> dict[str, Any]:
        """What the optimizer runs with, for the run's record."""
        rates = [] if self._adamw is None else [float(group["lr"]) for group in self._adamw.param_groups]
        return {
            "name": "AdamW",
            "betas": list(BETAS),
            "epsilon": EPSILON,
            "weight_decay": WEIGHT_DECAY,
            "clip_norm": CLIP_NORM,
            "master_weights": "float32" if self._lower else None,
            "applied_learning_rates": rates,
        }

    def _build(self) -> torch.optim.AdamW:
        import torch

        self._masters = {id(parameter): parameter.detach().float() for parameter in self._lower}
        updated = [self._masters.get(id(parameter), parameter) for parameter in self._parameters]
        groups = [
            {"params": [each for each in updated if each.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [each for each in updated if each.ndim < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, betas=BETAS, eps=EPSILON, fused=True
        )
        return self._adamw
