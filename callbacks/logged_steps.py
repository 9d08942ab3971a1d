"""Which training steps are logged: what the others find would be thrown away unread, and finding it takes time."""

from lightning.pytorch import Trainer


def is_logged_step(trainer: Trainer) -> bool:
    """Return whether the coming step is logged: the first, the last, and one in `trainer.log_every_n_steps`."""
    step = trainer.global_step + 1
    every = trainer.log_every_n_steps
    return step in (1, trainer.max_steps) or (every > 0 and step % every == 0)
