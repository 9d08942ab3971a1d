"""Waveforms brought to the length that an encoder needs."""

from torch import Tensor, nn


def pad_to(waveform: Tensor, samples: int) -> Tensor:
    """Return waveforms (rows, samples) of at least so many samples, silent at the end."""
    return nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[1])))


def pad_exactly(waveform: Tensor, samples: int, model: str) -> Tensor:
    """Return waveforms (rows, samples) for a model that hears one length alone, silent at the end.

    Raises:
        ValueError: when they are longer.
    """
    if waveform.shape[1] > samples:
        raise ValueError(
            f"sound of {waveform.shape[1]} samples, {model} takes {samples}: chunk it when preparing, or lower the "
            "max_seconds of the data"
        )
    return pad_to(waveform, samples)
