"""LanguageModel: a causal language model of the transformers library with its tokenizer, as a part."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.tokenized_text import TEXT
from modules.encoders.tokenizer import check_text_model, read_tokenizer, with_vocabulary
from modules.encoders.trunk import load_trunk
from modules.tokens import Tokens


class LanguageModel(Encoder):
    """A causal language model: token ids or embeddings in, features out, and `head` makes logits of them.

    Args:
        name_or_path: a pretrained model (its own tokenizer is used); or
        config: a causal model's config with `model_type`, built with random weights, and
        tokenizer: a `tokenizer.json` of the tokenizers library.
        max_tokens: longer texts are cut.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, the tokenizer has more tokens than
            the model, or the model fewer positions than `max_tokens`.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        max_tokens: int = 512,
    ) -> None:
        super().__init__()
        self.tokenizer_json = read_tokenizer(name_or_path, tokenizer)
        known = with_vocabulary(config, self.tokenizer_json)
        self.model = load_trunk(name_or_path, known, is_language_model=True, dtype="auto")
        check_text_model(self.model, self.tokenizer_json, max_tokens)
        self.max_tokens = max_tokens
        self.dim = self.model.config.hidden_size
        self.vocab_size: int = self.model.config.vocab_size

    @property
    def head(self) -> nn.Module:
        """The output layer: features (…, dim) to logits (…, vocab_size)."""
        return self.model.get_output_embeddings()

    def beside_tokens(self) -> list[nn.Parameter]:
        """Return the output layer's parameters, but for those that it shares with the embeddings."""
        shared = {id(parameter) for parameter in self.model.get_input_embeddings().parameters()}
        return [parameter for parameter in self.head.parameters() if id(parameter) not in shared]

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, the first to work first.

        Raises:
            ValueError: when the model keeps them in a way that is not known here.
        """
        count = self.model.config.num_hidden_layers
        for module in self.model.modules():  # from the outside in: whatever a family calls its list
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ValueError(
            f"{type(self.model).__name__} has no list of its {count} layers, expected one to look at media from: "
            "take a Projector or a PerceiverResampler instead"
        )

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": TEXT,
            "init_args": {"tokenizer_json": self.tokenizer_json, "max_tokens": self.max_tokens},
        }

    def init_args(self) -> dict[str, Any]:
        return {
            "config": {**self.model.config.to_diff_dict(), "vocab_size": self.vocab_size},
            "tokenizer": "./tokenizer.json",
            "max_tokens": self.max_tokens,
        }

    def assets(self) -> dict[str, str]:
        return {"tokenizer.json": self.tokenizer_json}

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the input embeddings (rows, tokens, dim) of ids (rows, tokens)."""
        return self.model.get_input_embeddings()(input_ids)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return features before the output layer.

        Args:
            inputs: `attention_mask` (rows, tokens) and either `input_ids` (rows, tokens)
                or `inputs_embeds` (rows, tokens, dim); `position_ids` (rows, tokens) where rows are packed: where
                they begin anew, so does a text that sees nothing of the one before.
        """
        rows = len(inputs["attention_mask"])
        inputs = at_least_one_row(inputs)
        mask = inputs["attention_mask"].bool()
        source = {name: inputs[name] for name in ("input_ids", "inputs_embeds") if name in inputs}
        if "position_ids" in inputs:  # without a mask, transformers keeps the texts of a row apart by itself
            seen: dict[str, Any] = {"position_ids": inputs["position_ids"], "attention_mask": None}
        else:
            seen = {"attention_mask": mask.long()}
        features = self.model.base_model(**source, **seen, use_cache=False).last_hidden_state
        return Tokens(features[:rows], mask[:rows])

    @torch.no_grad()
    def generate(self, embeds: Tensor, mask: Tensor, *, max_new_tokens: int) -> Tensor:
        """Continue each row greedily with a key-value cache: ids (rows, up to max_new_tokens).

        Args:
            embeds: (rows, tokens, dim), padded on the left so that every row ends in a real token.
            mask: (rows, tokens), bool.
            max_new_tokens: at most so many.
        """
        return self.model.generate(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.model.config.pad_token_id,
        )
