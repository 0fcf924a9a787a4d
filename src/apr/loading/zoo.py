"""The model zoo: classes and configs of transformers by their public names, never by code from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr.errors import AprError, DamagedFileError, MissingExtraError, UsageError
from apr.identity.types import Architecture, ResolvedConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def require_zoo() -> None:
    """Raise MissingExtraError with the install command unless torch and transformers can be imported."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"this needs torch and transformers ({error.name} is not installed)",
            remedy="pip install 'apr[train]'",
        ) from error


def model_class(architecture: Architecture) -> type[PreTrainedModel]:
    """The zoo's class of that name; UsageError when the installed transformers does not have it."""
    require_zoo()
    import transformers

    found = getattr(transformers, architecture.class_name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UsageError(
            f"the installed transformers has no model class {architecture.class_name}",
            found=f"transformers {transformers.__version__}",
            remedy="pip install -U transformers",
        )
    return found


def build_config(config: ResolvedConfig) -> PretrainedConfig:
    """The config object of `config`; DamagedFileError when its class refuses the values."""
    require_zoo()
    from transformers import AutoConfig

    from apr.loading.quiet import quiet_zoo

    values: dict[str, Any] = {
        key: value for key, value in config.values.items() if key not in {"auto_map", "quantization_config"}
    }
    values["architectures"] = [config.architecture.class_name]
    model_type = config.architecture.model_type
    values.pop("model_type", None)
    try:
        with quiet_zoo():
            return AutoConfig.for_model(model_type, **values)
    except AprError:
        raise
    except Exception as error:
        raise DamagedFileError(
            f"the config of {config.architecture} is not one its class accepts",
            expected=f"values that the {model_type} config class accepts",
            found=f"{type(error).__name__}: {error}",
            invariant="FALSIFY-APR-PRETRAIN-INIT-005",
        ) from error
