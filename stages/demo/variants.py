"""What is compared: objectives of align, and fusions of transfer, as changes to the demo's own configs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OBJECTIVES = "modules.objectives"
_FUSIONS = "modules.fusion"


@dataclass(frozen=True)
class Variant:
    """One way to train: a config below `configs/`, and what is changed in it."""

    name: str
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as one of a folder."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


# ---- objectives of align


def beside_infonce(class_path: str, weight: float, init_args: dict[str, Any]) -> dict[str, Any]:
    """Return the change that sets another objective beside InfoNCE, at a fixed weight."""
    contrast = {"class_path": f"{_OBJECTIVES}.contrastive.InfoNCE"}
    added = {"class_path": f"{_OBJECTIVES}.{class_path}", "init_args": init_args}
    return {
        "model.objective": {
            "class_path": f"{_OBJECTIVES}.weighted.Weighted",
            "init_args": {"objectives": {"contrast": contrast, "added": added}, "weights": {"added": weight}},
        }
    }


def masking(share: float) -> dict[str, Any]:
    """Return the change that takes a share of the modalities away in training; a pair stays a pair."""
    return {"model.masking": {"share": share, "at_least": 2}}


COMPLETION = beside_infonce(
    "completion.Completion", 0.2, {"modalities": ["audio", "image", "text"], "dim": 128, "hidden": 256}
)
TEMPORAL = beside_infonce(
    "temporal.TemporalAlignment", 0.2, {"widths": {"audio": 128, "text": 128}, "dim": 64}
)
_LATENT = "model.objective.init_args.objectives.latent.init_args"

INFONCE = Variant("InfoNCE", "align/infonce")
ALIGN = (
    INFONCE,
    Variant("completion", "align/infonce", COMPLETION),
    Variant("completion, masking 15 %", "align/infonce", COMPLETION | masking(0.15)),
    Variant("SigLIP", "align/siglip"),
    Variant("masking 15 %", "align/infonce", masking(0.15)),
    Variant("matching", "align/matching"),
    Variant("soft-DTW", "align/infonce", TEMPORAL),
    Variant("latent", "align/latent", {f"{_LATENT}.adversary": 0.0}),
    Variant("latent, adversary", "align/latent"),
    Variant("captioning", "align/captioning"),
    Variant("completion, masking 15 %, balanced", "align/several"),
    Variant("completion, masking 40 %", "align/infonce", COMPLETION | masking(0.4)),
)
"""All but SigLIP have InfoNCE, beside which stands what the name says. Those that are needed most come first, so that
a comparison that is interrupted has them."""


# ---- fusions of transfer


def joined_by(class_path: str, modalities: tuple[str, ...] = ("image", "audio"), **init_args: Any) -> Variant:
    """Return the variant that joins modalities by a fusion, 64 wide; named by them where there is one alone."""
    fusion = {"class_path": f"{_FUSIONS}.{class_path}", "init_args": {"dim": 64, **init_args}}
    name = f"{modalities[0]} alone" if len(modalities) == 1 else class_path.rpartition(".")[2]
    return Variant(name, "transfer/matches", {"model.fusion": fusion, "modalities": modalities})


def by_quality(joined: Variant) -> Variant:
    """Return the variant whose fusion weighs the modalities of another variant's by their estimated quality."""
    init_args = {"fusion": joined.changes["model.fusion"]}
    fusion = {"class_path": f"{_FUSIONS}.quality_fusion.QualityFusion", "init_args": init_args}
    return Variant("QualityFusion", joined.config, {**joined.changes, "model.fusion": fusion})


PERCEIVER = joined_by("perceiver.PerceiverFusion", num_heads=4)

FUSIONS = (
    joined_by("early.EarlyFusion", ("image",), num_heads=4),
    joined_by("early.EarlyFusion", ("audio",), num_heads=4),
    joined_by("concat.ConcatFusion"),
    joined_by("late.LateFusion"),
    joined_by("weighted.WeightedFusion"),
    joined_by("gated.GatedFusion"),
    joined_by("latent.LatentFusion"),
    joined_by("early.EarlyFusion", num_heads=4),
    joined_by("cross_attention.CrossAttentionFusion", num_heads=4),
    PERCEIVER,
    by_quality(PERCEIVER),
)
