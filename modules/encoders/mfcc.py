"""Mel-frequency cepstral coefficients, computed in batches on the sound's device, and an encoder of them."""

from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.audio import AudioEncoder
from modules.encoders.spectrogram import LogMel, standardised

AMIN = 1e-10
TOP_DB = 80.0


class MFCC(nn.Module):
    """Waveforms to `librosa.feature.mfcc`: the cosine transform of the mel spectrogram in decibels.

    Args:
        sampling_rate: samples a second of the waveforms, in hertz.
        num_coefficients: how many are kept, from the first.
        num_mels: mel bands that they are made of.
    """

    transform: Tensor

    def __init__(self, *, sampling_rate: int, num_coefficients: int = 13, num_mels: int = 128) -> None:
        super().__init__()
        import numpy as np
        from scipy.fft import dct

        if not 1 <= num_coefficients <= num_mels:
            raise ValueError(
                f"{num_coefficients} coefficients of {num_mels} mel bands: expected at most as many as bands"
            )
        self.mel = LogMel(sampling_rate=sampling_rate, num_mels=num_mels)
        transform = dct(np.eye(num_mels), type=2, norm="ortho", axis=0)[:num_coefficients]
        self.register_buffer("transform", torch.from_numpy(transform), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (rows, frames, num_coefficients) and their mask (rows, frames).

        Each coefficient of each row is brought to zero mean and unit variance over the row's real frames; padding
        frames are zero.

        Args:
            waveform: (rows, samples), float in [-1, 1], zero where padded.
            lengths: (rows,), real samples of each row.
        """
        frames = self.coefficients(waveform, lengths).transpose(1, 2)
        mask = self.mel.mask(lengths, frames.shape[1])
        return standardised(frames, mask, (1,)), mask

    def coefficients(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Return what librosa does of each row alone: (rows, num_coefficients, frames), the later ones of silence.

        As in librosa's `power_to_db`, nothing is more than 80 dB below the loudest of its row.
        """
        power = self.mel.power(waveform).double()
        decibels = 10 * power.clamp(min=AMIN).log10()  # (rows, mels, frames)
        places = torch.arange(decibels.shape[2], device=decibels.device)
        behind = (places > (lengths // self.mel.hop_samples).unsqueeze(1)).unsqueeze(
            1
        )  # frames librosa would not see
        loudest = decibels.masked_fill(behind, -torch.inf).amax((1, 2), keepdim=True)
        return (self.transform @ torch.maximum(decibels, loudest - TOP_DB)).float()


class MFCCEncoder(AudioEncoder):
    """AudioEncoder over cepstral coefficients (13 × frames) in place of mel bands.

    Args:
        trunk: as AudioEncoder's, and so the rest.
        num_coefficients: of each frame.
    """

    def __init__(
        self,
        trunk: dict[str, Any],
        *,
        sampling_rate: int = 16000,
        max_seconds: float = 10.0,
        num_coefficients: int = 13,
        num_convolutions: int = 3,
    ) -> None:
        super().__init__(
            trunk,
            sampling_rate=sampling_rate,
            max_seconds=max_seconds,
            num_mels=num_coefficients,
            num_convolutions=num_convolutions,
        )

    def init_args(self) -> dict[str, Any]:
        arguments = super().init_args()
        return {"num_coefficients": arguments.pop("num_mels"), **arguments}

    def _front_end(self) -> nn.Module:
        return MFCC(sampling_rate=self.sampling_rate, num_coefficients=self.num_mels)
