"""CheckpointActivations: layers keep their input alone while training, and are computed again for the gradient."""

from lightning.pytorch import Callback, LightningModule, Trainer

from modules.parallel import checkpoint_activations


class CheckpointActivations(Callback):
    """A third more compute for a fraction of the memory of activations; gradients and names stay what they are."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            checkpoint_activations(pl_module)
