"""Point clouds in KITTI's layout, and a PointNet that makes one token of each."""

import math

import numpy as np
import torch
from torch import nn

from datamodules.modalities.bad_sample import BadSample
from modules.encoders.encoder import Encoder
from modules.tokens import Tokens, full

MAX_BYTES = 1 << 24  # a million points; a turn of a lidar has a hundred thousand


class PointCloud:
    """Inputs: `points` (rows, points, 4), centred and at most 1 from there, with reflectance; `count` (rows,)."""

    members = ("bin",)

    def __init__(self, max_points: int = 256) -> None:
        self.max_points = max_points

    def decode(self, data: bytes, member: str) -> np.ndarray:
        if not 16 <= len(data) <= MAX_BYTES or len(data) % 16:
            raise BadSample("point_cloud_size", f"{len(data)} bytes, expected 16 a point, up to {MAX_BYTES}")
        points = np.frombuffer(data, "<f4").reshape(-1, 4)
        if not (np.abs(points) < 1e6).all():  # false of NaN as well
            raise BadSample("point_cloud_range", "a coordinate is NaN, infinite or beyond 1000 km")
        points = points[np.linspace(0, len(points) - 1, min(len(points), self.max_points)).astype(int)]
        xyz = points[:, :3] - points[:, :3].mean(0)
        return np.hstack([xyz / max(np.linalg.norm(xyz, axis=1).max(), 1e-6), points[:, 3:]])

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        turn = rng.uniform(0, 2 * math.pi)  # seen from any side, but upright
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], "f4")
        return np.hstack([value[:, :2] @ rotation, value[:, 2:]])

    def collate(self, values: list[np.ndarray]) -> dict[str, torch.Tensor]:
        points = torch.zeros(len(values), max(map(len, values), default=1), 4)
        for row, value in zip(points, values, strict=True):
            row[: len(value)] = torch.from_numpy(value)
        return {"points": points, "count": torch.tensor([len(value) for value in values]).long()}


class PointNet(Encoder):
    """One perceptron for every point, and the largest value of each feature (arXiv:1612.00593, without its T-Nets)."""

    def __init__(self, dim: int = 64, max_points: int = 256) -> None:
        super().__init__()
        self.dim, self.max_points = dim, max_points
        self.perceptron = nn.Sequential(
            nn.Linear(4, dim), nn.ReLU(), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 4 * dim)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(4 * dim, dim))

    def init_args(self) -> dict:
        return {"dim": self.dim, "max_points": self.max_points}

    @property
    def input_config(self) -> dict:
        return {"class_path": "examples.point_cloud.PointCloud", "init_args": {"max_points": self.max_points}}

    def forward(self, inputs) -> Tokens:
        features = self.perceptron(inputs["points"])  # (rows, points, 4 dim)
        is_real = torch.arange(features.shape[1], device=features.device) < inputs["count"][:, None]
        features = features.masked_fill(~is_real.unsqueeze(-1), torch.finfo(features.dtype).min)
        return full(self.head(features.amax(1, keepdim=True)))
