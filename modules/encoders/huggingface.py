"""Text and image encoders of the transformers library: any model, pretrained by name or path, or from a config."""

from typing import Any

import torch
from torch import Tensor

from modules.encoders.picture import PictureEncoder, patches_of
from modules.encoders.processor import PictureSettings, choose_settings, picture_settings
from modules.encoders.tokenized_text import TokenizedTextEncoder
from modules.encoders.tokenizer import check_text_model, read_tokenizer, with_vocabulary
from modules.encoders.trunk import load_trunk
from modules.tokens import Tokens


class TextEncoder(TokenizedTextEncoder):
    """Token ids (rows, tokens) to Tokens, by a transformers text model.

    `Tokens.pooled()` averages all real tokens of a text. In a causal model (GPT-2, Llama) each token has seen only
    those before it, and the last one alone has seen the whole text: `last_only` returns that one.

    Args:
        name_or_path: a pretrained model (its own tokenizer is used); or
        config: a model's config with `model_type`, built with random weights, and
        tokenizer: a `tokenizer.json` of the tokenizers library. Where the config says no `vocab_size`, it and the ids
            of special tokens follow from it.
        max_tokens: longer texts are cut.
        last_only: one token for a text, its last real one.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, the model is none of text or has a
            decoder besides (T5), the tokenizer has more tokens than the model, or the model fewer positions than
            `max_tokens`.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        max_tokens: int = 77,
        last_only: bool = False,
    ) -> None:
        super().__init__(read_tokenizer(name_or_path, tokenizer), max_tokens)
        self.trunk = load_trunk(name_or_path, with_vocabulary(config, self.tokenizer_json))
        check_text_model(self.trunk, self.tokenizer_json, max_tokens)
        if "use_cache" in self.trunk.config.to_dict():
            self.trunk.config.use_cache = (
                False  # nothing is generated: keys and values would only take memory
            )
        self.dim, self.last_only = self.trunk.config.hidden_size, last_only

    def init_args(self) -> dict[str, Any]:
        config = self.trunk.config  # what equals the library's default is not in its diff
        return {
            "config": {**config.to_diff_dict(), "vocab_size": config.vocab_size},
            "tokenizer": "./tokenizer.json",
            "max_tokens": self.max_tokens,
            "last_only": self.last_only,
        }

    def _tokens(self, ids: Tensor, mask: Tensor) -> Tokens:
        features = self.trunk(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if not self.last_only:
            return Tokens(features, mask)
        last = mask.long().cumsum(1).argmax(1)  # the first place where all real tokens are counted
        return Tokens(
            features[torch.arange(len(features), device=features.device), last].unsqueeze(1),
            mask.any(1, keepdim=True),
        )


class ImageEncoder(PictureEncoder):
    """Pictures (rows, 3, height, width) to Tokens, one a patch, row by row, by a transformers vision model.

    Convolutional models (ResNet, ConvNeXt, MobileViT) give their last map, transformers (ViT, Swin) their
    patches without the class token.

    Args:
        name_or_path: a pretrained model, with its image processor's settings; or
        config: a model's config with `model_type`, built with random weights.
        image_size: height and width of the pictures, pixels; by default the config's, else the processor's.
        mean: of each channel over [0, 1], subtracted on the device; by default the processor's, 0.5 without one.
        std: of each channel over [0, 1]; as `mean`.
        is_bgr: whether the model takes blue first; by default the processor's.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, no image size is known or the model
            takes another, or a pretrained model comes without settings and none are given.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        image_size: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        is_bgr: bool | None = None,
    ) -> None:
        trunk = load_trunk(name_or_path, config)
        is_told = name_or_path is None or (mean is not None and std is not None)
        known = PictureSettings() if is_told else picture_settings(str(name_or_path))
        size = image_size or trunk.config.to_dict().get("image_size")
        super().__init__(trunk, choose_settings(known, image_size=size, mean=mean, std=std, is_bgr=is_bgr))
        self._measure()

    def init_args(self) -> dict[str, Any]:
        return {"config": self.trunk.config.to_diff_dict(), "is_bgr": self.is_bgr, **self.settings()}

    def _features(self, pixels: Tensor) -> Tensor:
        return patches_of(self.trunk(pixel_values=pixels).last_hidden_state)
