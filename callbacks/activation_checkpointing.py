"""CheckpointActivations: layers keep their input alone while training, and are computed again for the gradient."""

from lightning.pytorch import Callback, LightningModule, Trainer

from modules.parallel import checkpoint_activations
from modules.parts import Part


class CheckpointActivations(Callback):
    """A third more compute for a fraction of the memory of activations; gradients and names stay what they are."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have layers computed again.

        Raises:
            ValueError: as `compute_layers_again` does.
        """
        if stage == "fit":
            compute_layers_again(pl_module)


def compute_layers_again(module: LightningModule) -> None:
    """Have the layers of a model computed again for the gradient, as a plan does too.

    Raises:
        ValueError: when the model has no repeated layers, so that nothing would be saved.
    """
    if not checkpoint_activations(module):
        parts = ", ".join(type(part).__name__ for part in module.modules() if isinstance(part, Part))
        raise ValueError(
            f"CheckpointActivations finds no repeated layers in {parts or type(module).__name__}, and would "
            "save no memory: leave it out, and lower data.batch_size (with trainer.accumulate_grad_batches, or "
            "model.chunks in align)"
        )
