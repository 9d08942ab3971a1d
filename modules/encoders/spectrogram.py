"""Log-mel spectrograms, computed in batches on whatever device the sound is on."""

import math

import torch
from torch import Tensor, nn


class LogMel(nn.Module):
    """Waveforms to the natural logarithm of `librosa.feature.melspectrogram` (Slaney's mel scale, power 2).

    Args:
        sampling_rate: samples a second of the waveforms, in hertz.
        num_mels: mel bands between 0 Hz and half the sampling rate.
        window_ms: length of the Hann window, and of the Fourier transform.
        hop_ms: from one frame to the next.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self, *, sampling_rate: int, num_mels: int, window_ms: float = 25.0, hop_ms: float = 10.0
    ) -> None:
        super().__init__()
        import librosa

        self.window_samples = round(sampling_rate * window_ms / 1000)
        self.hop_samples = round(sampling_rate * hop_ms / 1000)
        filters = librosa.filters.mel(sr=sampling_rate, n_fft=self.window_samples, n_mels=num_mels)
        self.register_buffer(
            "window", torch.hann_window(self.window_samples, dtype=torch.float64), persistent=False
        )
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return how many frames start within each waveform."""
        return (num_samples + self.hop_samples - 1) // self.hop_samples

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (rows, frames, num_mels) and their mask (rows, frames).

        Each row is brought to zero mean and unit variance over its own real frames, so that neither
        loudness nor the padding of the batch reaches the encoder; padding frames are zero.

        Args:
            waveform: (rows, samples), float in [-1, 1], zero where padded.
            lengths: (rows,), real samples of each row.
        """
        frames = self.log_power(waveform).transpose(1, 2)  # (rows, frames, num_mels)
        mask = self.mask(lengths, frames.shape[1])
        return standardised(frames, mask, (1, 2)), mask

    def log_power(self, waveform: Tensor) -> Tensor:
        """Return the natural logarithm of `power`, -23 where it is less."""
        return torch.log(self.power(waveform).clamp(min=math.exp(-23)))

    def power(self, waveform: Tensor) -> Tensor:
        """Return what `librosa.feature.melspectrogram(pad_mode="constant")` does: (rows, num_mels, frames), float32.

        The Fourier transform is in float64: float32 has no digits for a band 60 dB below the loudest of its frame.
        Behind it nothing cancels, and float32 is as good. That takes twice as long as float32 throughout.
        """
        with full_precision(waveform):
            spectrum = torch.stft(
                waveform.double(),
                n_fft=self.window_samples,
                hop_length=self.hop_samples,
                window=self.window.double(),  # a model in half precision has rounded it
                center=True,
                pad_mode="constant",
                return_complex=True,
            )  # (rows, frequencies, frames)
            return self.filters.float() @ (spectrum.real.square() + spectrum.imag.square()).float()

    def mask(self, lengths: Tensor, frames: int) -> Tensor:
        """Return (rows, frames), True where a frame starts within its waveform; each has one at least."""
        counts = self.num_frames(lengths).clamp(min=1, max=frames)
        return torch.arange(frames, device=lengths.device) < counts.unsqueeze(1)


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context in which nothing is rounded to half precision: what is quiet in a spectrum would be lost."""
    return torch.autocast(tensor.device.type, enabled=False)


def standardised(frames: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Bring real frames (rows, frames, bands) to zero mean and unit variance over `dims`; the others become zero."""
    real = mask.unsqueeze(2).to(frames.dtype).expand_as(frames)
    size = real.sum(dims, keepdim=True)
    mean = (frames * real).sum(dims, keepdim=True) / size
    variance = ((frames - mean).square() * real).sum(dims, keepdim=True) / size
    return (frames - mean) * torch.rsqrt(variance + 1e-5) * real


def hide_masked(frames: Tensor, mask: Tensor, time_masks: Tensor, mel_masks: Tensor) -> Tensor:
    """Set spans of time and bands of frequency to zero (SpecAugment, arXiv:1904.08779, section 2).

    Zero is each row's mean, since LogMel brings rows to zero mean. Which spans is given, not drawn: the data's own
    generator draws them, so that a run that goes on sees the same.

    Args:
        frames: (rows, frames, num_mels), float.
        mask: (rows, frames) bool, True where a frame is real.
        time_masks: (rows, masks, 2): start and end of spans, as shares of the row's real frames.
        mel_masks: (rows, masks, 2): start and end of bands, as shares of `num_mels`.
    """
    time_places = torch.arange(frames.shape[1], device=frames.device)
    mel_places = torch.arange(frames.shape[2], device=frames.device)
    times = _within(time_places, time_masks * mask.sum(1).view(-1, 1, 1))  # (rows, frames)
    mels = _within(mel_places, mel_masks * frames.shape[2])  # (rows, num_mels)
    return frames.masked_fill(times.unsqueeze(2) | mels.unsqueeze(1), 0.0)


def _within(places: Tensor, spans: Tensor) -> Tensor:
    """Return (rows, places), True where a place lies in one of a row's `spans` (rows, masks, 2)."""
    start, end = spans.round().unsqueeze(-1).unbind(2)  # (rows, masks, 1) each
    return ((places >= start) & (places < end)).any(1)
