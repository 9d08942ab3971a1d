"""Tokenizers as JSON text of the tokenizers library: read, matched with a model's config, checked against it."""

from pathlib import Path
from typing import Any

from torch import nn


def read_tokenizer(name_or_path: str | None, tokenizer: str | None) -> str:
    """Return a tokenizer as the JSON text of the tokenizers library.

    Args:
        name_or_path: a pretrained model whose own tokenizer is taken when `tokenizer` is None.
        tokenizer: path of a `tokenizer.json`.

    Raises:
        ValueError: when none is given, the model has no fast tokenizer, or the one that is given has other ids.
        FileNotFoundError: when the file is not there.
    """
    if tokenizer is not None:
        if not Path(tokenizer).is_file():
            raise FileNotFoundError(
                f"no tokenizer at {tokenizer}: expected a tokenizer.json of the tokenizers library"
            )
        text = Path(tokenizer).read_text(encoding="utf-8")
        if name_or_path is not None:
            _check_same_vocabulary(text, tokenizer, name_or_path)
        return text
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


def _check_same_vocabulary(text: str, path: str, name_or_path: str) -> None:
    """Refuse a tokenizer that gives the ids of the model's own tokens to others: these would get their vectors."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(name_or_path).get_vocab()
    except (OSError, ValueError):
        return  # the model comes without one: check_text_model compares the sizes
    token_of = {number: token for token, number in own.items()}
    for token, number in sorted(Tokenizer.from_str(text).get_vocab().items(), key=lambda item: item[1]):
        if token_of.get(number, token) != token:
            raise ValueError(
                f"{path} has another vocabulary than {name_or_path}: id {number} is {token!r} there and "
                f"{token_of[number]!r} in the model's own tokenizer; leave `tokenizer` out to take the model's own"
            )


def with_vocabulary(config: dict[str, Any] | None, tokenizer_json: str) -> dict[str, Any] | None:
    """Add to a config that says no `vocab_size` what follows from its tokenizer."""
    return config if config is None or "vocab_size" in config else {**config, **vocabulary(tokenizer_json)}


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


def check_text_model(model: nn.Module, tokenizer_json: str, max_tokens: int) -> None:
    """Refuse a transformers model that does not take such a tokenizer's ids alone, or texts of so many tokens.

    Raises:
        ValueError: when it takes no ids of text, or a decoder's as well; when the tokenizer has more tokens than its
            embedding; when its table of positions is shorter than `max_tokens`.
    """
    embedding = _embedding_of(model)
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} is an encoder with a decoder, which asks for a text of its own: expected an "
            "encoder or a causal model, of a model_type such as bert, modernbert, gpt2 or llama"
        )
    needed, there = vocabulary(tokenizer_json)["vocab_size"], embedding.num_embeddings
    if needed > there:
        raise ValueError(
            f"the tokenizer has {needed} tokens, the embedding of {type(model).__name__} {there}: "
            "expected the tokenizer that the model was trained with"
        )
    positions = _positions_of(model)
    if positions is not None and max_tokens > positions:
        raise ValueError(
            f"max_tokens is {max_tokens}, {type(model).__name__} has {positions} positions: lower "
            "max_tokens, or take a model with more"
        )


def _embedding_of(model: nn.Module) -> nn.Embedding:
    try:
        found = model.get_input_embeddings()
    except NotImplementedError:
        found = None
    if not isinstance(found, nn.Embedding):
        raise ValueError(
            f"{type(model).__name__} takes no ids of text: expected a text model, of a model_type such as bert, "
            "modernbert, gpt2 or llama"
        )
    return found


def _positions_of(model: nn.Module) -> int | None:
    """Return how many tokens a model's table of positions is enough for; None where it has no end."""
    known = model.config.to_dict()
    if "rope_parameters" in known or "rope_theta" in known:
        return None  # they go on turning, if not as they were trained
    tables = [module for name, module in model.named_modules() if name.endswith(".position_embeddings")]
    for table in tables:
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            # RoBERTa and its kin begin behind the padding's id.
            return table.num_embeddings - table.padding_idx - 1
    return known.get(model.config.attribute_map.get("max_position_embeddings", "max_position_embeddings"))
