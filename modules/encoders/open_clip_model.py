"""Models of open_clip by name, folder or config."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from modules.origin import weightless


def load_model(
    name_or_path: str | None, config: dict[str, Any] | None, pretrained: str | None
) -> tuple[dict[str, Any], nn.Module | None]:
    """Return a model's config and the model, None where only a config is given.

    Raises:
        ValueError: as the encoders do.
    """
    if (name_or_path is None) == (config is None):
        given = "neither" if config is None else "both"
        raise ValueError(
            f"{given} of name_or_path and config given: expected a pretrained model, or a config"
        )
    if name_or_path is None:
        return dict(config or {}), None
    import open_clip

    if Path(name_or_path).is_dir():
        name = f"local-dir:{name_or_path}"
        known = _saved_config(Path(name_or_path))
    elif name_or_path.startswith("hf-hub:"):
        from modules.captioner import find_model

        name, known = name_or_path, _saved_config(find_model(name_or_path.removeprefix("hf-hub:")))
    else:
        name, known = name_or_path, open_clip.get_model_config(name_or_path)
        if known is None:
            raise ValueError(f"open_clip has no model {name_or_path}: see open_clip.list_models()")
        if pretrained is None:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name_or_path)) or "a file"
            raise ValueError(f"which weights of {name_or_path}: give `pretrained`, one of {tags}")
        told = open_clip.get_pretrained_cfg(name_or_path, pretrained) or {}
        if told.get("quick_gelu", False) and not known.get("quick_gelu", False):
            raise ValueError(
                f"{pretrained} was trained with QuickGELU, {name_or_path} has GELU: use {name_or_path}-quickgelu"
            )
    if weightless():
        return known, None
    model = open_clip.create_model(
        name, pretrained=pretrained, force_custom_text=True, require_pretrained=True
    )
    return known, model


def _saved_config(folder: Path) -> dict[str, Any]:
    file = folder / "open_clip_config.json"
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: expected a folder as open_clip's push_to_hf_hub writes it")
    return dict(json.loads(file.read_text(encoding="utf-8"))["model_cfg"])


def kept_config(config: dict[str, Any], tower: str) -> dict[str, Any]:
    """Return what one tower is built from again: `vision_cfg` or `text_cfg`, and what both share."""
    return {key: config[key] for key in ("embed_dim", tower, "quick_gelu") if key in config}
