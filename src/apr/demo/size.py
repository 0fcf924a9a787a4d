"""How large the demo is: the model, its text and its two runs, chosen for minutes on two cores and under 2 GB."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MODEL_CLASS = "Qwen2ForCausalLM"
FALSE_CLASS, FALSE_MODEL_TYPE = "LlamaForCausalLM", "llama"


@dataclass(frozen=True, slots=True)
class DemoSize:
    """Sizes of the demo. text_bytes: of source files taken from the standard library. Learning rates are peaks.

    least_bias_damage: by how much, relative, the load as stamped must be worse than the recorded loss for the story to
    be told; below it the biases would not matter in this model.
    """

    text_bytes: int
    validation_documents: int
    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    sequence_length: int
    batch_size: int
    steps: int
    steps_per_epoch: int
    warmup_steps: int
    learning_rate: float
    resumed_steps: int
    resumed_steps_per_epoch: int
    resumed_warmup_steps: int
    resumed_learning_rate: float
    least_bias_damage: float

    def config(self) -> dict[str, Any]:
        """The `config.json` of the model; vocabulary and token ids are filled in by the run from its tokenizer."""
        return {
            "architectures": [MODEL_CLASS],
            "model_type": "qwen2",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "max_position_embeddings": 4 * self.sequence_length,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
        }

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


FULL = DemoSize(
    text_bytes=4_000_000,
    validation_documents=16,
    vocabulary_size=2048,
    hidden_size=160,
    intermediate_size=432,
    layers=4,
    heads=4,
    key_value_heads=2,
    sequence_length=128,
    batch_size=16,
    steps=300,
    steps_per_epoch=75,
    warmup_steps=30,
    learning_rate=3e-3,
    resumed_steps=120,
    resumed_steps_per_epoch=40,
    resumed_warmup_steps=12,
    resumed_learning_rate=1e-3,
    least_bias_damage=0.05,
)
"""What `apr demo` runs."""

SMALL = DemoSize(
    text_bytes=500_000,
    validation_documents=4,
    vocabulary_size=600,
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=4,
    key_value_heads=2,
    sequence_length=64,
    batch_size=8,
    steps=80,
    steps_per_epoch=40,
    warmup_steps=8,
    learning_rate=5e-3,
    resumed_steps=20,
    resumed_steps_per_epoch=10,
    resumed_warmup_steps=2,
    resumed_learning_rate=2e-3,
    least_bias_damage=0.002,
)
"""The same story in seconds, for tests."""
