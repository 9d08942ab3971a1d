"""Motion sensors logged as CSV, and convolutions over time that make a token of each third of a second."""

import io

import numpy as np
import torch
from torch import nn

from datamodules.modalities.bad_sample import BadSample
from modules.encoders.encoder import Encoder, at_least_one_row
from modules.tokens import Tokens

MAX_BYTES = 1 << 22  # ten minutes at 100 Hz


class Imu:
    """Columns `t, ax, ay, az, gx, gy, gz` (s, m/s², rad/s). Inputs: `signal` (rows, 6, samples), `lengths`."""

    members = ("csv",)

    def __init__(self, sampling_rate: int = 50, max_seconds: float = 10.0) -> None:
        self.sampling_rate, self.max_seconds = sampling_rate, max_seconds

    def decode(self, data: bytes, member: str) -> np.ndarray:
        if len(data) > MAX_BYTES:
            raise BadSample("imu_too_large", f"{len(data)} bytes, at most {MAX_BYTES}")
        try:
            table = np.loadtxt(io.BytesIO(data), delimiter=",", skiprows=1, ndmin=2, comments=None)
        except ValueError as error:
            raise BadSample("imu_layout", str(error)) from error
        if len(table) < 2 or table.shape[1] != 7 or not (np.abs(table) < 1e12).all():  # false of NaN as well
            raise BadSample("imu_layout", f"{table.shape}, expected rows of 7 finite numbers, two or more")
        times = table[:, 0] - table[0, 0]
        if not (np.diff(times) > 0).all():
            raise BadSample("imu_time", "a reading is not later than the one before")
        grid = np.arange(0, min(times[-1], self.max_seconds), 1 / self.sampling_rate)
        signal = np.stack([np.interp(grid, times, channel) for channel in table[:, 1:].T])  # (6, samples)
        return signal.astype(np.float32) / np.array([9.81] * 3 + [1.0] * 3, "f4")[:, None]

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return value * np.float32(rng.uniform(0.9, 1.1))  # no two sensors have the same gain

    def collate(self, values: list[np.ndarray]) -> dict[str, torch.Tensor]:
        signal = torch.zeros(len(values), 6, max((value.shape[1] for value in values), default=1))
        for row, value in zip(signal, values, strict=True):
            row[:, : value.shape[1]] = torch.from_numpy(value)
        return {"signal": signal, "lengths": torch.tensor([value.shape[1] for value in values]).long()}


class ImuEncoder(Encoder):
    """Four convolutions, each halving the rate; what is padding is zero before each, so that no real token sees it."""

    def __init__(self, dim: int = 64, sampling_rate: int = 50, max_seconds: float = 10.0) -> None:
        super().__init__()
        self.dim, self.settings = dim, {"sampling_rate": sampling_rate, "max_seconds": max_seconds}
        self.layers = nn.ModuleList(nn.Conv1d(c, dim, 5, stride=2, padding=2) for c in (6, dim, dim, dim))

    def init_args(self) -> dict:
        return {"dim": self.dim, **self.settings}

    @property
    def input_config(self) -> dict:
        return {"class_path": "examples.imu.Imu", "init_args": self.settings}

    def forward(self, inputs) -> Tokens:
        filled = at_least_one_row(inputs)  # convolutions take no empty batch
        features, lengths = filled["signal"], filled["lengths"]
        for layer in self.layers:
            features, lengths = layer(features), (lengths + 1) // 2
            mask = torch.arange(features.shape[2], device=features.device) < lengths[:, None]
            features = nn.functional.gelu(features) * mask.unsqueeze(1)
        rows = len(inputs["lengths"])
        return Tokens(features.transpose(1, 2)[:rows], mask[:rows])
