"""TimmEncoder: any vision model of the timm library that gives features."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules.encoders.picture import PictureEncoder, patches_of
from modules.encoders.processor import PictureSettings, choose_settings
from modules.origin import mark_loaded, weightless


class TimmEncoder(PictureEncoder):
    """Pictures (rows, 3, height, width) to Tokens, one a patch or place of the last map, row by row.

    Args:
        name_or_path: a model's name (`resnet18`, `vit_small_patch16_224.augreg_in21k`), `hf-hub:…`, or a folder with
            timm's `config.json` and `model.safetensors`.
        pretrained: with its weights; otherwise they are random.
        model_args: more arguments of `timm.create_model`, such as `{img_size: 128}`.
        image_size: height and width of the pictures, pixels; by default `img_size` of `model_args`, else the
            pretrained model's, and so `mean` and `std`, of each channel over [0, 1].

    Raises:
        ValueError: when timm knows no such model, it gives no features, or takes pictures of another size.
        FileNotFoundError: when a folder is no timm model.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        pretrained: bool = True,
        model_args: dict[str, Any] | None = None,
        image_size: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        from timm.data import resolve_model_data_config

        self.model_args = {**saved_args(name_or_path), **(model_args or {})}
        trunk = _create(name_or_path, pretrained, self.model_args)
        told = resolve_model_data_config(trunk)
        side = self.model_args.get("img_size") or told["input_size"][-1]
        side = side if isinstance(side, int) else max(side)  # timm takes a pair too
        known = PictureSettings(side, tuple(told["mean"]), tuple(told["std"]))
        super().__init__(trunk, choose_settings(known, image_size=image_size, mean=mean, std=std))
        self._measure()

    def init_args(self) -> dict[str, Any]:
        return {
            "name_or_path": self.trunk.pretrained_cfg["architecture"],
            "pretrained": False,
            "model_args": self.model_args,
            **self.settings(),
        }

    def _features(self, pixels: Tensor) -> Tensor:
        features = self.trunk.forward_features(pixels)
        width = self.trunk.num_features
        if not isinstance(features, Tensor) or features.ndim not in (3, 4) or width not in features.shape[1:]:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"forward_features gives {found}, expected a map or tokens of {width} features")
        if features.ndim == 4 and features.shape[1] != width:  # Swin's come last
            features = features.permute(0, 3, 1, 2)
        return patches_of(features)


def saved_args(name_or_path: str) -> dict[str, Any]:
    """Return the arguments that a saved timm model was built with, from its `config.json`; none for a plain name.

    Raises:
        FileNotFoundError: when a folder has none.
    """
    if not Path(name_or_path).is_dir():
        return {}
    file = Path(name_or_path, "config.json")
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: expected a folder that timm.models.save_for_hf wrote")
    saved = json.loads(file.read_text(encoding="utf-8")).get("model_args") or {}
    return {name: value for name, value in saved.items() if name != "num_classes"}


def _create(name_or_path: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    import timm

    name = f"local-dir:{name_or_path}" if Path(name_or_path).is_dir() else name_or_path
    try:
        trunk = timm.create_model(
            name, pretrained=pretrained and not weightless(), num_classes=0, **model_args
        )
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"timm gives no model {name_or_path} with {model_args} ({error})") from error
    if "forward_features" not in dir(trunk):
        raise ValueError(
            f"the timm model {name_or_path} ({type(trunk).__name__}) has no forward_features: it gives no tokens; "
            "choose another"
        )
    if pretrained:
        mark_loaded(trunk, name_or_path)
    return trunk
