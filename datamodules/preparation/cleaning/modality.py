"""Filter for members that a modality refuses, whichever it is: a user's own is checked like images and sounds."""

from dataclasses import dataclass
from typing import Any

from datamodules.modalities.bad_sample import BadSample
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import Sample


@dataclass
class RefusedByModality(Filter):
    """Drop samples with a member that a modality cannot decode, under the reason that loading would give."""

    modality: dict[str, Any]
    """`class_path` and `init_args` of the modality, as an encoder's `input_config` says them."""

    def __post_init__(self) -> None:
        if not isinstance(self.modality.get("class_path"), str):
            raise ValueError(
                f"modality is {self.modality}: expected class_path, such as my_lab.imu.Imu, and its init_args"
            )
        # Here, since it imports torch, which prepare does without.
        from datamodules.modalities.build import build_modalities

        self.built = build_modalities({"modality": self.modality})["modality"]

    def examine(self, sample: Sample) -> None:
        for member in self.built.members:
            data = sample.members.get(member)
            if isinstance(data, bytes):
                try:
                    self.built.decode(data, member)
                except BadSample as bad:
                    raise Reject(bad.reason.replace("_", " ")) from bad
