"""Build a causal language model from scratch: any class of the zoo, its config, named changes, one seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import DamagedFileError, InputOutputError, NotFoundError, RefusedError, UsageError
from apr.loading.quiet import quiet_zoo
from apr.loading.zoo import require_zoo

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

DECODER_ID = "FALSIFY-APR-PRETRAIN-ARCH-007"
# Written by transformers, facts of a file rather than of a model.
FILE_KEYS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "quantization_config", "auto_map")
# Keys that model code reads from configs which do not declare them.
UNDECLARED_KEYS = ("head_dim", "rope_theta", "rope_scaling", "partial_rotary_factor", "is_decoder")


@dataclass(frozen=True, slots=True)
class ScratchRequest:
    """Which model to build. architecture: class name; config_file: a `config.json`; changes: config key to text.

    vocabulary_rows, bos_id, eos_id: of the tokenizer; they go into the config unless `changes` names them.
    """

    architecture: str | None
    config_file: Path | None
    changes: Mapping[str, str]
    vocabulary_rows: int
    bos_id: int | None
    eos_id: int | None


def scratch_config(request: ScratchRequest) -> tuple[str, PretrainedConfig]:
    """The class name and the complete config of `request`.

    Raises UsageError for an unknown class or key, RefusedError (FALSIFY-APR-PRETRAIN-ARCH-007) for a class that is no
    causal language model, DamagedFileError or NotFoundError for the config file.
    """
    require_zoo()
    from transformers import AutoConfig

    values = _config_values(request.config_file) if request.config_file is not None else {}
    class_name = request.architecture or _class_of(values, request.config_file)
    model_type = _model_type(class_name, values.pop("model_type", None))
    with quiet_zoo():
        defaults = AutoConfig.for_model(model_type)
        values.update(_tokenizer_values(request, defaults.to_dict() | values))
        changes = {key: _parsed(text) for key, text in request.changes.items()}
        _check_keys(class_name, changes, defaults)
        try:
            config = AutoConfig.for_model(model_type, **{**values, **changes, "architectures": [class_name]})
        except Exception as error:
            raise UsageError(
                f"the config of {class_name} refuses these values",
                found=f"{type(error).__name__}: {error}",
                remedy="correct --set or --config",
            ) from error
    return class_name, config


def _model_type(class_name: str, stated: object) -> str:
    """The model type whose config `class_name` is built from: the stated one if the class serves it, else its own."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    served = [key for key, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if _names(class_name, names)]
    if not served:
        raise _not_causal(class_name)
    if isinstance(stated, str) and stated in served:
        return stated
    own: str = getattr(transformers, class_name).config_class.model_type
    return own if own in served else served[0]


def _tokenizer_values(request: ScratchRequest, values: Mapping[str, Any]) -> dict[str, Any]:
    """The vocabulary and the special ids of the tokenizer; a padding id beyond the vocabulary becomes the end id."""
    chosen: dict[str, Any] = {"vocab_size": request.vocabulary_rows, "bos_token_id": request.bos_id}
    chosen["eos_token_id"] = request.eos_id
    padding = values.get("pad_token_id")
    if isinstance(padding, int) and padding >= request.vocabulary_rows:
        chosen["pad_token_id"] = request.eos_id
    return chosen


def _check_keys(class_name: str, changes: Mapping[str, Any], defaults: PretrainedConfig) -> None:
    known = {*defaults.to_dict(), *vars(defaults), *defaults.attribute_map, *UNDECLARED_KEYS}
    unknown = sorted(set(changes) - known)
    if unknown:
        shown = ", ".join(sorted(key for key in known if not key.startswith("_")))
        raise UsageError(
            f"--set names keys that the config of {class_name} does not have",
            expected=f"keys among {shown}",
            found=", ".join(unknown),
            remedy="correct the key",
        )


def build_model(class_name: str, config: PretrainedConfig, *, seed: int, dtype: torch.dtype) -> PreTrainedModel:
    """A freshly initialised model on the CPU; the same seed gives the same weights. Weights are drawn in float32."""
    import torch
    import transformers

    torch.manual_seed(seed)
    try:
        with quiet_zoo():
            model: PreTrainedModel = getattr(transformers, class_name)(config)
    except Exception as error:
        raise UsageError(
            f"{class_name} cannot be built from this config",
            found=f"{type(error).__name__}: {error}",
            remedy="correct the dimensions in --set or --config",
        ) from error
    return model.to(dtype)


def _config_values(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError("no such config file", where=str(path), remedy="check --config") from error
    except OSError as error:
        raise InputOutputError(f"cannot read the config: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise DamagedFileError("the config is not JSON", where=str(path), found=str(error)) from error
    if not isinstance(document, dict):
        raise DamagedFileError("the config is not a JSON object", where=str(path), found=type(document).__name__)
    return {key: value for key, value in document.items() if key not in FILE_KEYS}


def _class_of(values: Mapping[str, Any], path: Path | None) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = values.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    of_type = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(values.get("model_type")))
    if isinstance(of_type, str):
        return of_type
    raise UsageError(
        "the config does not name a model class",
        where=str(path),
        expected='"architectures": ["Qwen2ForCausalLM"], or a "model_type" that has one causal language model',
        found=f"architectures {names!r}, model_type {values.get('model_type')!r}",
        remedy="add it to the config, or give --arch CLASS as well",
    )


def _names(class_name: str, names: str | tuple[str, ...] | list[str]) -> bool:
    return class_name == names if isinstance(names, str) else class_name in names


def _not_causal(class_name: str) -> RefusedError | UsageError:
    import transformers

    found = getattr(transformers, class_name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return RefusedError(
            f"{class_name} is no causal language model",
            expected="a decoder that predicts the next token",
            found=class_name,
            remedy="name a class that ends in ForCausalLM or LMHeadModel",
            invariant=DECODER_ID,
        )
    return UsageError(
        f"the installed transformers has no model class {class_name}",
        expected="the exact name of a causal language model, such as Qwen2ForCausalLM",
        found=f"transformers {transformers.__version__}",
        remedy="check the spelling of --arch",
    )


def _parsed(text: str) -> Any:
    """A --set value: JSON where it is JSON (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
