"""What training runs left for the report: curves from their TensorBoard logs, and their configs."""

from pathlib import Path

Curve = list[tuple[float, float]]
"""Points (step, value)."""
POINTS = 200


def read_curves(run_dir: Path) -> dict[str, Curve]:
    """Return the training loss, smoothed, and the validation loss of a run; of these, what it logged."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(run_dir / "logs"), size_guidance={SCALARS: 0})
    events.Reload()
    logged = set(events.Tags()["scalars"])
    curves = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in ("train/loss", "val/loss")
        if name in logged
    }
    if "train/loss" in curves:
        curves["train/loss"] = thinned(smoothed(curves["train/loss"]))
    return curves


def smoothed(curve: Curve, decay: float = 0.8) -> Curve:
    """Return the exponential moving average of a curve, corrected for its start as Adam's averages are."""
    mean, weight, points = 0.0, 0.0, []
    for step, value in curve:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + 1 - decay
        points.append((step, mean / weight))
    return points


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """Return at most about so many points of a curve, evenly, the last among them."""
    every = -(-len(curve) // points) or 1
    return curve[::-every][::-1]


def read_config(run_dir: Path) -> str:
    """Return the config of a run as the YAML text it was resolved to; empty when it left none."""
    file = run_dir / "config.yaml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
