"""The two towers of open_clip's models, each an encoder of its own."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules.encoders.clip_tokenizer import clip_tokenizer
from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.picture import PictureEncoder, patches_of
from modules.encoders.processor import PictureSettings, choose_settings
from modules.encoders.tokenizer import read_tokenizer, vocabulary
from modules.origin import mark_loaded, weightless
from modules.tokens import Tokens

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class OpenClipImageEncoder(PictureEncoder):
    """Pictures (rows, 3, height, width) to Tokens, one a patch, or one alone: the model's embedding of the picture.

    Args:
        name_or_path: a model of open_clip (`ViT-B-32`), `hf-hub:…`, or a folder with `open_clip_config.json`; or
        config: with `embed_dim` and `vision_cfg` as open_clip's JSON has them, built with random weights.
        pretrained: which weights go with a name: a tag (`laion2b_s34b_b79k`) or a file.
        pooled: one token, the embedding in the space that the two towers share, as `encode_image` gives it.
        mean: of each channel over [0, 1], subtracted on the device; by default the model's.
        std: of each channel over [0, 1]; as `mean`.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, a name without `pretrained`, or a
            tower without patches (a ResNet, one of timm's) that is not `pooled`.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        pooled: bool = False,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        from open_clip.model import CLIPVisionCfg, _build_vision_tower
        from open_clip.transformer import VisionTransformer

        known, model = _load(name_or_path, config, pretrained)
        image_size = known["vision_cfg"].get("image_size", 224)
        settings = PictureSettings(image_size, CLIP_MEAN, CLIP_STD)
        if model is None:
            vision = CLIPVisionCfg(**{**known["vision_cfg"], "timm_model_pretrained": False})
            tower = _build_vision_tower(known["embed_dim"], vision, known.get("quick_gelu", False))
        else:
            tower, told = model.visual, model.visual.preprocess_cfg
            settings = PictureSettings(image_size, tuple(told["mean"]), tuple(told["std"]))
        if name_or_path is not None:
            mark_loaded(tower, name_or_path)
        if not pooled:
            if not isinstance(tower, VisionTransformer):
                raise ValueError(
                    f"{type(tower).__name__} of open_clip gives no patches: set pooled, or take the model from timm"
                )
            tower.output_tokens, tower.proj = True, None  # nothing would train the projection
        super().__init__(tower, choose_settings(settings, image_size=None, mean=mean, std=std))
        self.config, self.pooled = _kept(known, "vision_cfg"), pooled
        self._measure()

    def init_args(self) -> dict[str, Any]:
        settings = self.settings()
        del settings["image_size"]
        return {"config": self.config, "pooled": self.pooled, **settings}

    def _features(self, pixels: Tensor) -> Tensor:
        if self.pooled:
            return self.trunk(pixels).unsqueeze(1)
        return patches_of(self.trunk(pixels)[1])


class OpenClipTextEncoder(Encoder):
    """Token ids (rows, tokens) to Tokens, one each, or one alone: the model's embedding of the text.

    Args:
        name_or_path: a model of open_clip (`ViT-B-32`), `hf-hub:…`, or a folder with `open_clip_config.json`; or
        config: with `embed_dim` and `text_cfg` as open_clip's JSON has them, built with random weights.
        pretrained: which weights go with a name: a tag (`laion2b_s34b_b79k`) or a file.
        tokenizer: a `tokenizer.json`; by default the one the config names, else CLIP's own.
        pooled: one token, the embedding in the space that the two towers share, as `encode_text` gives it.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, a name without `pretrained`, the
            tower is transformers' own, or the tokenizer has more tokens than the tower.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        tokenizer: str | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        from open_clip.model import CLIPTextCfg, _build_text_tower
        from open_clip.transformer import TextTransformer

        known, model = _load(name_or_path, config, pretrained)
        if model is None:
            text = CLIPTextCfg(**{**known["text_cfg"], "hf_model_pretrained": False})
            tower = _build_text_tower(known["embed_dim"], text, known.get("quick_gelu", False))
        else:
            tower = model.text
        if not isinstance(tower, TextTransformer):
            raise ValueError(
                f"the text tower {type(tower).__name__} is a model of transformers: use "
                "modules.encoders.huggingface.TextEncoder for it"
            )
        if name_or_path is not None:
            mark_loaded(tower, name_or_path)
        named = known["text_cfg"].get("hf_tokenizer_name")
        self.tokenizer_json = read_tokenizer(named, tokenizer) if tokenizer or named else clip_tokenizer()
        size = vocabulary(self.tokenizer_json)["vocab_size"]
        if size > tower.vocab_size:
            raise ValueError(
                f"the tokenizer has {size} tokens, the embedding of the text tower {tower.vocab_size}: expected the "
                "tokenizer that the model was trained with"
            )
        tower.output_tokens = not pooled
        if not pooled:
            tower.text_projection = None  # nothing would train it
        self.config, self.pooled, self.trunk = _kept(known, "text_cfg"), pooled, tower
        self.dim = tower.output_dim if pooled else tower.width

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.text.Text",
            "init_args": {"tokenizer_json": self.tokenizer_json, "max_tokens": self.trunk.context_length},
        }

    def init_args(self) -> dict[str, Any]:
        return {"config": self.config, "tokenizer": "./tokenizer.json", "pooled": self.pooled}

    def assets(self) -> dict[str, str]:
        return {"tokenizer.json": self.tokenizer_json}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode text.

        Args:
            inputs: `input_ids` (rows, tokens) and `attention_mask` (rows, tokens), True where a token is real.
        """
        rows = len(inputs["input_ids"])
        inputs = at_least_one_row(inputs)
        mask = inputs["attention_mask"].bool()
        ids = inputs["input_ids"].masked_fill(~mask, self.trunk.pad_id)
        if (
            self.trunk.attn_mask is None
        ):  # a tower that looks both ways sees its padding too, always as much of it
            ids = nn.functional.pad(
                ids, (0, self.trunk.context_length - ids.shape[1]), value=self.trunk.pad_id
            )
        with _as_long_as(self.trunk, ids.shape[1]):
            found = self.trunk(ids)
        if self.pooled:
            return Tokens(found.unsqueeze(1)[:rows], mask.any(1, keepdim=True)[:rows])
        return Tokens(found[1][:rows, : mask.shape[1]], mask[:rows])


@contextmanager
def _as_long_as(tower: nn.Module, tokens: int) -> Iterator[None]:
    """Cut the causal mask to a batch's length: the library keeps one for its longest text, and takes no shorter one."""
    whole = tower.attn_mask
    tower.attn_mask = None if whole is None else whole[:tokens, :tokens]
    try:
        yield
    finally:
        tower.attn_mask = whole


def _load(
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


def _kept(config: dict[str, Any], tower: str) -> dict[str, Any]:
    return {key: config[key] for key in ("embed_dim", tower, "quick_gelu") if key in config}
