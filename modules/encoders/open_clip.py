"""The two towers of open_clip's models, each an encoder of its own."""

import math
from typing import Any

from torch import Tensor, nn

from modules.encoders.clip_tokenizer import clip_tokenizer
from modules.encoders.open_clip_model import kept_config, load_model
from modules.encoders.open_clip_towers import CausalText, ClassTokenBlock
from modules.encoders.picture import PictureEncoder, patches_of
from modules.encoders.processor import PictureSettings, choose_settings
from modules.encoders.tokenized_text import TokenizedTextEncoder
from modules.encoders.tokenizer import read_tokenizer, vocabulary
from modules.origin import mark_loaded
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
        from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

        known, model = load_model(name_or_path, config, pretrained)
        image_size = known["vision_cfg"].get("image_size", 224)
        settings = PictureSettings(image_size, CLIP_MEAN, CLIP_STD)
        if model is None:
            vision = CLIPVisionCfg(**{**known["vision_cfg"], "timm_model_pretrained": False})
            tower = _build_vision_tower(known["embed_dim"], vision, known.get("quick_gelu", False))
        else:
            tower, told = model.visual, model.visual.preprocess_cfg
            settings = PictureSettings(image_size, tuple(told["mean"]), tuple(told["std"]))
        is_transformer = isinstance(tower, VisionTransformer)
        if name_or_path is not None:
            mark_loaded(tower, name_or_path)
        if not pooled:
            if not is_transformer:
                raise ValueError(
                    f"{type(tower).__name__} of open_clip gives no patches: set pooled, or take the model from timm"
                )
            tower.output_tokens, tower.proj = True, None  # nothing would train the projection
        elif is_transformer and tower.pool_type == "tok" and tower.attn_pool is None:
            blocks = tower.transformer.resblocks
            if isinstance(blocks[-1], ResidualAttentionBlock):
                blocks[-1] = ClassTokenBlock(blocks[-1])
        super().__init__(tower, choose_settings(settings, image_size=None, mean=mean, std=std))
        self.config, self.pooled = kept_config(known, "vision_cfg"), pooled
        self.num_attended = math.prod(tower.grid_size) + 1 if is_transformer else 0
        self._measure()

    def init_args(self) -> dict[str, Any]:
        settings = self.settings()
        del settings["image_size"]
        return {"config": self.config, "pooled": self.pooled, **settings}

    def _features(self, pixels: Tensor) -> Tensor:
        if self.pooled:
            return self.trunk(pixels).unsqueeze(1)
        return patches_of(self.trunk(pixels)[1])


class OpenClipTextEncoder(TokenizedTextEncoder):
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
        from open_clip.model import CLIPTextCfg, _build_text_tower
        from open_clip.transformer import TextTransformer

        known, model = load_model(name_or_path, config, pretrained)
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
        named = known["text_cfg"].get("hf_tokenizer_name")
        tokenizer_json = read_tokenizer(named, tokenizer) if tokenizer or named else clip_tokenizer()
        size = vocabulary(tokenizer_json)["vocab_size"]
        if size > tower.vocab_size:
            raise ValueError(
                f"the tokenizer has {size} tokens, the embedding of the text tower {tower.vocab_size}: expected the "
                "tokenizer that the model was trained with"
            )
        if not pooled:
            tower.text_projection = None  # nothing would train it
        super().__init__(tokenizer_json, tower.context_length)
        self.config, self.pooled = kept_config(known, "text_cfg"), pooled
        self.dim, self.pad_id = tower.output_dim if pooled else tower.width, tower.pad_id
        tower.output_tokens = not pooled
        self.trunk = CausalText(tower) if CausalText.is_causal(tower) else tower
        if name_or_path is not None:
            mark_loaded(self.trunk, name_or_path)

    def init_args(self) -> dict[str, Any]:
        return {"config": self.config, "tokenizer": "./tokenizer.json", "pooled": self.pooled}

    def _tokens(self, ids: Tensor, mask: Tensor) -> Tokens:
        if isinstance(self.trunk, CausalText):
            found = self.trunk(ids, mask, pooled=self.pooled)
        else:  # it sees its padding, always as much of it
            behind = (0, self.max_tokens - ids.shape[1])
            found = self.trunk(
                nn.functional.pad(ids.masked_fill(~mask, self.pad_id), behind, value=self.pad_id)
            )
            found = found if self.pooled else found[1][:, : ids.shape[1]]
        return Tokens(found.unsqueeze(1), mask.any(1, keepdim=True)) if self.pooled else Tokens(found, mask)
