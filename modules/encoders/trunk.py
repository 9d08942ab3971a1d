"""Trunks: models of the transformers library, pretrained by name or folder, or with random weights from a config."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.origin import mark_loaded, weightless

MASK_TOKENS = ("mask_token", "masked_spec_embed")
"""Parameters of the library that hidden patches and frames turn into, by the end of their name."""


def load_trunk(
    name_or_path: str | None,
    config: dict[str, Any] | None,
    *,
    is_language_model: bool = False,
    dtype: torch.dtype | str = torch.float32,
    **changes: Any,
) -> nn.Module:
    """Load a pretrained model, or build one from its config.

    Args:
        name_or_path: a folder of `save_pretrained`, or a model's name on the hub; or
        config: with `model_type`.
        is_language_model: with the output layer of a causal language model.
        dtype: of a pretrained model's weights, whatever the checkpoint's is; `auto` leaves the checkpoint's.
        changes: to the config, such as `num_hidden_layers`, where it is not None.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, or the model is unknown or not whole.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if name_or_path is not None and config is None:
        found = pretrained_trunk(name_or_path, is_language_model=is_language_model, dtype=dtype, **changes)
        return _without_mask_tokens(found)
    if config is not None and name_or_path is None:
        return _without_mask_tokens(build_trunk({**config, **changes}, is_language_model=is_language_model))
    given = "neither" if config is None else "both"
    raise ValueError(
        f"{given} of name_or_path and config given: expected the name or folder of a pretrained model, "
        "or the config of a new one"
    )


def build_trunk(config: dict[str, Any], *, is_language_model: bool = False) -> nn.Module:
    """Build a transformers model with random weights from its config, which names its `model_type`.

    Raises:
        ValueError: when the config names no model type that transformers knows.
    """
    from transformers import CONFIG_MAPPING

    config = dict(config)
    model_type = config.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"model_type {model_type!r} is not known to transformers: expected one such as 'modernbert', 'vit', 'llama'"
        )
    built = CONFIG_MAPPING[model_type](**config)
    return _auto(is_language_model).from_config(built, **_without_pooler(built, is_language_model))


def pretrained_trunk(
    name_or_path: str,
    *,
    is_language_model: bool = False,
    dtype: torch.dtype | str = torch.float32,
    **changes: Any,
) -> nn.Module:
    """Load a transformers model with its weights from a local folder or the hub's cache; only safetensors are read.

    Raises:
        ValueError: when a weight of the model is not in the checkpoint: nothing is random in silence; or it is an
            adapter of peft, which transformers would put into the model unasked.
    """
    from transformers import AutoConfig

    if Path(name_or_path, "adapter_config.json").is_file():
        raise ValueError(
            f"{name_or_path} holds an adapter of peft (adapter_config.json), expected a whole model: merge it into "
            "its base first (peft's merge_and_unload, then save_pretrained), or name the base and adapt it here by "
            "modules.adapters.adapt"
        )
    config = AutoConfig.from_pretrained(name_or_path, **changes)
    if weightless():
        built = _auto(is_language_model).from_config(config, **_without_pooler(config, is_language_model))
        mark_loaded(built, name_or_path)
        return built
    model, report = _auto(is_language_model).from_pretrained(
        name_or_path,
        config=config,
        output_loading_info=True,
        use_safetensors=True,
        dtype=dtype,
        **_without_pooler(config, is_language_model),
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name_or_path} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:5])}); "
            "expected a checkpoint of this very architecture"
        )
    mark_loaded(model, name_or_path)
    return model.train()  # as a new model is; whoever freezes it sets it to evaluate


def _auto(is_language_model: bool) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModelForCausalLM if is_language_model else AutoModel


def _without_mask_tokens(model: nn.Module) -> nn.Module:
    """Freeze what stands in for hidden input: objectives hide it before the model, so nothing would train it."""
    for name, parameter in model.named_parameters():
        if name.endswith(MASK_TOKENS):
            parameter.requires_grad_(False)
    return model


def _without_pooler(config: Any, is_language_model: bool) -> dict[str, bool]:
    """Leave the pooler out where a model has one: nothing here reads it, so that nothing would train it."""
    from transformers import MODEL_MAPPING

    if is_language_model or type(config) not in MODEL_MAPPING:
        return {}
    known = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}
