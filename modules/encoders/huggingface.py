"""Encoders of the transformers library: any text or image model, pretrained by name or path, or from a config."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.tokens import Tokens, full


def build_trunk(config: dict[str, Any], *, pooling_layer: bool = False) -> nn.Module:
    """Build a transformers model with random weights from its config, which names its `model_type`.

    Raises:
        ValueError: when the config names no model type that transformers knows.
    """
    from transformers import CONFIG_MAPPING, AutoModel

    config = dict(config)
    model_type = config.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"model_type {model_type!r} is not known to transformers: expected one such as 'modernbert', 'vit'"
        )
    built = CONFIG_MAPPING[model_type](**config)
    options = {} if pooling_layer or model_type not in _WITH_POOLER else {"add_pooling_layer": False}
    return AutoModel.from_config(built, **options)


_WITH_POOLER = ("bert", "roberta", "vit", "deit")  # their pooler is an unused layer to us: nothing trains it


def pretrained_trunk(name_or_path: str) -> nn.Module:
    """Load a transformers model with its weights from a local folder or the hub's cache.

    Raises:
        ValueError: when a weight of the model is not in the checkpoint: nothing is random in silence.
    """
    from transformers import AutoConfig, AutoModel

    model_type = AutoConfig.from_pretrained(name_or_path).model_type
    options = {"add_pooling_layer": False} if model_type in _WITH_POOLER else {}
    model, report = AutoModel.from_pretrained(
        name_or_path, output_loading_info=True, use_safetensors=True, **options
    )
    if report["missing_keys"]:
        raise ValueError(
            f"{name_or_path} lacks {len(report['missing_keys'])} weights of {type(model).__name__} "
            f"({', '.join(sorted(report['missing_keys'])[:5])}); expected a checkpoint of this very architecture"
        )
    return model


class TextEncoder(Encoder):
    """Token ids (rows, tokens) to Tokens, by a transformers text model.

    Args:
        name_or_path: a pretrained model (its own tokenizer is used); or
        config: a model's config with `model_type`, built with random weights, and
        tokenizer: a `tokenizer.json` of the tokenizers library. `vocab_size` and the padding id follow from it.
        max_tokens: longer texts are cut.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        max_tokens: int = 77,
    ) -> None:
        super().__init__()
        self.tokenizer_json = read_tokenizer(name_or_path, tokenizer)
        if name_or_path is not None and config is None:
            self.trunk = pretrained_trunk(name_or_path)
        elif config is not None and name_or_path is None:
            self.trunk = build_trunk({**config, **vocabulary(self.tokenizer_json)})
        else:
            raise ValueError(
                "TextEncoder takes either name_or_path or config with tokenizer, not both and not neither"
            )
        self.dim = self.trunk.config.hidden_size
        self.max_tokens = max_tokens

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.text.Text",
            "init_args": {"tokenizer_json": self.tokenizer_json, "max_tokens": self.max_tokens},
        }

    def init_args(self) -> dict[str, Any]:
        return {
            "config": self.trunk.config.to_diff_dict(),
            "tokenizer": "./tokenizer.json",
            "max_tokens": self.max_tokens,
        }

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
        features = self.trunk(input_ids=inputs["input_ids"], attention_mask=mask.long()).last_hidden_state
        return Tokens(features[:rows], mask[:rows])


class ImageEncoder(Encoder):
    """Pictures (rows, 3, height, width) to Tokens, one a patch, row by row, by a transformers vision model.

    Convolutional models (ResNet, ConvNeXt, MobileViT) give their last map, transformers (ViT, Swin) their
    patches without the class token.

    Args:
        name_or_path: a pretrained model; or
        config: a model's config with `model_type`, built with random weights.
        image_size: height and width of the pictures, pixels; needed where the config does not say it.
        mean: of each channel over [0, 1], subtracted on the device.
        std: of each channel over [0, 1].

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, or no image size is known.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        image_size: int | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if name_or_path is not None and config is None:
            self.trunk = pretrained_trunk(name_or_path)
        elif config is not None and name_or_path is None:
            self.trunk = build_trunk(config)
        else:
            raise ValueError("ImageEncoder takes either name_or_path or config, not both and not neither")
        self.image_size = image_size or self.trunk.config.to_dict().get("image_size")
        if not self.image_size:
            raise ValueError(
                f"the config of {type(self.trunk).__name__} does not say its image_size: give it beside the config"
            )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.grid, self.dim = self._probe()

    @property
    def patch_size(self) -> int:
        """Height and width of the patch that one token stands for, in pixels."""
        return self.image_size // self.grid

    @property
    def input_config(self) -> dict[str, Any]:
        size = {"height": self.image_size, "width": self.image_size}
        return {"class_path": "datamodules.modalities.image.Image", "init_args": size}

    def init_args(self) -> dict[str, Any]:
        return {
            "config": self.trunk.config.to_diff_dict(),
            "image_size": self.image_size,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode pictures.

        Args:
            inputs: `pixels` (rows, 3, height, width) uint8, and for masked prediction
                `masked` (rows, patches) bool: patches that the encoder must not see.
        """
        rows = len(inputs["pixels"])
        inputs = at_least_one_row(inputs)
        pixels = (inputs["pixels"].float() / 255 - self.mean) / self.std
        if "masked" in inputs:
            size = self.patch_size
            masked = inputs["masked"].view(len(pixels), 1, self.grid, self.grid)
            pixels = pixels.masked_fill(masked.repeat_interleave(size, 2).repeat_interleave(size, 3), 0.0)
        if not rows:  # the row that nobody keeps must not reach the running statistics of batch norms
            with _evaluating(self.trunk):
                return full(self._features(pixels)[:0])
        return full(self._features(pixels))

    def _features(self, pixels: Tensor) -> Tensor:
        features = self.trunk(pixel_values=pixels).last_hidden_state
        if features.ndim == 4:  # (rows, dim, height, width)
            features = features.flatten(2).transpose(1, 2)
        patches = math.isqrt(features.shape[1]) ** 2
        return features[:, features.shape[1] - patches :]  # (rows, patches, dim)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int]:
        """Return tokens along each side and their width, which every family of models says in its own way."""
        with _evaluating(self.trunk):
            device = next(self.trunk.parameters()).device
            features = self._features(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
        return math.isqrt(features.shape[1]), features.shape[2]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def read_tokenizer(name_or_path: str | None, tokenizer: str | None) -> str:
    """Return a tokenizer as the JSON text of the tokenizers library.

    Args:
        name_or_path: a pretrained model whose own tokenizer is taken when `tokenizer` is None.
        tokenizer: path of a `tokenizer.json`.

    Raises:
        ValueError: when none is given or the model has no fast tokenizer.
        FileNotFoundError: when the file is not there.
    """
    if tokenizer is not None:
        if not Path(tokenizer).is_file():
            raise FileNotFoundError(
                f"no tokenizer at {tokenizer}: expected a tokenizer.json of the tokenizers library"
            )
        return Path(tokenizer).read_text(encoding="utf-8")
    if name_or_path is None:
        raise ValueError("a text model built from a config needs `tokenizer`, the path of a tokenizer.json")
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(name_or_path)
    if not loaded.is_fast:
        raise ValueError(
            f"the tokenizer of {name_or_path} has no fast version; save one as tokenizer.json and pass it"
        )
    backend = loaded.backend_tokenizer
    if loaded.pad_token is not None:
        backend.enable_padding(pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)
    return backend.to_str()


def vocabulary(tokenizer_json: str) -> dict[str, int]:
    """Return what a model's config takes from its tokenizer: vocabulary size and special token ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    names = {"pad": "[PAD]", "bos": "[BOS]", "eos": "[EOS]", "cls": "[BOS]", "sep": "[EOS]"}
    ids = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in names.items()}
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        **{key: value for key, value in ids.items() if value is not None},
    }
