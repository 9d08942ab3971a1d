"""A tokenizer learnt from one's own text: byte-level BPE, so that nothing is ever unknown."""

from collections.abc import Iterable

SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[EOS]", "[MASK]", "[USER]", "[ASSISTANT]")
"""In the order of their ids."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> str:
    """Learn a byte-level BPE (arXiv:1508.07909; bytes as in GPT-2) and return it as JSON of the tokenizers library.

    Every text is encoded as `[BOS] … [EOS]`; padding is `[PAD]`, id 0.

    Args:
        texts: what to learn from.
        vocab_size: special tokens and the 256 bytes included.

    Raises:
        ValueError: when the vocabulary has no room for the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size is {vocab_size}, expected at least {least}: special tokens and all bytes"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos, eos = tokenizer.token_to_id("[BOS]"), tokenizer.token_to_id("[EOS]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", bos), ("[EOS]", eos)]
    )
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer.to_str()
