"""VideoFeatureCache: an image encoder's features for the frames of videos, encoded again only where frames change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages.prepare.features import FeatureCache

if TYPE_CHECKING:
    from datamodules.modalities.build import Modality
    from datamodules.modalities.features import Cached
    from modules.encoders.encoder import Encoder

IMAGE = "datamodules.modalities.image.Image"
VIDEO = "datamodules.modalities.video.Video"


@dataclass
class VideoFeatureCache(FeatureCache):
    """Add the member `video.safetensors`: the tokens of an image encoder for frames of each video, one after another.

    A frame that did not change takes the features of the last frame that was encoded.
    """

    num_frames: int = 8
    """Frames of each video, evenly spaced by time."""
    threshold: float = 0.0
    """Mean difference in grey levels, 0 to 255, up to which a frame counts as unchanged; 0 asks for equal pixels."""
    frames: dict[str, int] = field(
        default_factory=lambda: {"seen": 0, "unchanged": 0}, init=False, repr=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_frames < 1 or self.threshold < 0:
            raise ValueError(
                f"VideoFeatureCache: num_frames is {self.num_frames} and threshold {self.threshold}, expected at "
                "least 1 and at least 0"
            )

    @property
    def name(self) -> str:
        return self.modality or "video"

    def report(self) -> dict[str, Any]:
        [(name, about)] = super().report().items()
        seen, unchanged = self.frames["seen"], self.frames["unchanged"]
        frames = {**self.frames, "hit_rate": round(unchanged / seen, 4) if seen else 0.0}
        return {name: {**about, "frames": frames}}

    def state(self) -> dict[str, Any]:
        return {"counts": super().state(), "frames": dict(self.frames)}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state["counts"])
        self.frames = dict(state["frames"])

    def _input_config(self, encoder: "Encoder") -> dict[str, Any]:
        image = encoder.input_config
        if image["class_path"] != IMAGE:
            raise ValueError(
                f"{self.encoder} takes {image['class_path']}: expected an encoder of images, for the frames"
            )
        size = {side: image["init_args"][side] for side in ("height", "width")}
        return {"class_path": VIDEO, "init_args": {**size, "num_frames": self.num_frames}}

    def _variant(self) -> str:
        return f"{self.dtype}-{self.num_frames}frames-{self.threshold:g}"

    def _rows(self, encoder: "Encoder", modality: "Modality", values: Sequence[Any]) -> "list[Cached]":
        import numpy as np

        from datamodules.modalities.build import build_modalities
        from stages.prepare.changed_frames import encode_frames

        [image] = build_modalities({"image": encoder.input_config}).values()

        def encode(frames: np.ndarray) -> np.ndarray:
            return np.stack(
                [features for features, _ in FeatureCache._rows(self, encoder, image, list(frames))]
            )

        rows = []
        for frames in values:
            features, hits = encode_frames(frames, encode, self.threshold)  # (frames, tokens, dim)
            self.frames["seen"] += len(frames)
            self.frames["unchanged"] += hits
            tokens = features.reshape(-1, features.shape[-1])
            rows.append((tokens, np.ones(len(tokens), dtype=bool)))
        return rows
