"""Checkpoints: the newest is found, the oldest go."""

import pytest

from callbacks.checkpoints import Checkpoints, newest


class FakeTrainer:
    is_global_zero = True
    global_step = 0

    def save_checkpoint(self, path, weights_only):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_the_newest_is_found_and_strangers_are_ignored(tmp_path):
    assert newest(tmp_path / "missing") is None
    for name in ("step-00000009.ckpt", "step-00000100.ckpt", "step-zz.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    assert newest(tmp_path) == str(tmp_path / "step-00000100.ckpt")


def test_every_n_steps_once_each_and_only_the_last_are_kept(tmp_path):
    callback, trainer = Checkpoints(tmp_path, every_n_steps=2, keep=2), FakeTrainer()
    for step in (1, 2, 2, 3, 4, 5, 6):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004.ckpt", "step-00000006.ckpt"]


def test_numbers_that_are_not_positive_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps=0"):
        Checkpoints(tmp_path, every_n_steps=0)
