"""Masked audio modelling: spans of the spectrogram are hidden, the encoder says what they were."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.encoders.audio import AudioEncoder
from modules.encoders.encoder import Encoder, at_least_one_row
from modules.objectives.draws import Draws
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class MaskedAudio(PretrainingObjective):
    """Predict hidden log-mel frames, as Mockingjay does (arXiv:1910.12638, section 2.2: L1 over masked frames).

    Args:
        encoder: an audio encoder; one of its tokens stands for `encoder.stride` frames.
        share: of the tokens' spans that are hidden.
        seed: of which ones.

    Raises:
        ValueError: when the encoder is another kind.
    """

    def __init__(self, encoder: AudioEncoder, share: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        check_spectrogram(encoder, "masked audio modelling")
        self.log_mel = [encoder.log_mel]  # in a list: it belongs to the encoder
        self.stride, self.share, self.draws = encoder.stride, share, Draws(seed)
        self.decoder = nn.Linear(encoder.dim, encoder.stride * encoder.num_mels)

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Hide spans of `stride` frames; the target is the spans (rows, spans, stride x mels) and which were hidden."""
        spans, whole, count = cut_into_spans(self.log_mel[0], self.stride, inputs)
        luck = self.draws.uniform(*whole.shape).to(whole.device, torch.float32)
        hidden = (luck < self.share) & whole
        return {**inputs, "masked": hidden.repeat_interleave(self.stride, 1)[:, :count]}, (spans, hidden)

    def forward(
        self, tokens: Tokens, target: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the hidden spans alone."""
        spans, hidden = target
        difference = (self.decoder(tokens.features[hidden]) - spans[hidden]).abs()
        return {"masked_audio": global_mean(difference.sum(), difference.numel())}, {}


def check_spectrogram(encoder: Encoder, objective: str) -> None:
    """Refuse an encoder whose tokens are not spans of a spectrogram, of which some frames can be hidden.

    Raises:
        ValueError: when it is none.
    """
    if not isinstance(encoder, AudioEncoder):
        raise ValueError(
            f"{objective} hides frames of a spectrogram, which {type(encoder).__name__} does not take: expected "
            "modules.encoders.audio.AudioEncoder or modules.encoders.mfcc.MFCCEncoder"
        )


def cut_into_spans(
    log_mel: nn.Module, stride: int, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, int]:
    """Cut the spectrogram of sounds into spans of `stride` frames, each of them what one token sees.

    Returns:
        Spans (rows, spans, stride x mels), which hold real frames alone (rows, spans) bool, and the number of frames.
    """
    given = at_least_one_row(inputs)
    frames, mask = log_mel(given["waveform"], given["lengths"])  # (rows, frames, mels)
    frames, mask = frames[: len(inputs["lengths"])], mask[: len(inputs["lengths"])]
    rows, count, mels = frames.shape
    padding = -count % stride
    num_spans = (count + padding) // stride
    spans = nn.functional.pad(frames, (0, 0, 0, padding)).reshape(rows, num_spans, stride * mels)
    whole = nn.functional.pad(mask, (0, padding)).reshape(rows, num_spans, stride).all(2)
    return spans, whole, count
