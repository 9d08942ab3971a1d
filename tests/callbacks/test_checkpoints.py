"""Checkpoints: saved by steps and minutes beside the training, the newest and the best kept, and failures survived."""

import errno
import threading

import pytest
import torch

from callbacks import checkpoint_file as files
from callbacks.checkpoints import OWNER, Best, Checkpoints, TakenOver
from callbacks.preemption import Preemption

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*.ckpt"))


def test_every_n_steps_and_the_last_and_only_the_newest_are_kept(fit, line, tmp_path):
    fit(line(), Checkpoints(tmp_path, every_n_steps=2, keep=2), steps=7)
    assert names(tmp_path) == ["step-00000006.ckpt", "step-00000007.ckpt"]
    assert (tmp_path / files.LATEST).resolve().name == "step-00000007.ckpt"
    for path in files.candidates(tmp_path):
        files.check_sums(path)
        assert files.read(path)["global_step"] == files.step_of(path)


def test_the_best_by_validation_is_kept_besides_and_remembered(fit, line, tmp_path):
    every_two = {"val_check_interval": 2, "limit_val_batches": 1}
    callback = Checkpoints(tmp_path, every_n_steps=1, keep=1, best=Best("val/loss", "min"))
    fit(line(), callback, steps=8, **every_two)  # scores 3, 1, 2, 5
    assert names(tmp_path) == ["step-00000004.ckpt", "step-00000008.ckpt"]
    assert (tmp_path / "best.ckpt").resolve().name == "step-00000004.ckpt"
    assert callback.best_score == 1.0
    state = files.read(tmp_path / "step-00000008.ckpt")["callbacks"]["Checkpoints"]
    assert state == {"best_score": 1.0}


@pytest.mark.parametrize(
    ("mode", "score", "than", "expected"),
    [
        ("min", 1.0, None, True),
        ("min", 1.0, 2.0, True),
        ("min", 2.0, 1.0, False),
        ("max", 2.0, 1.0, True),
        ("min", float("nan"), None, False),
    ],
)
def test_better_is_lower_or_higher_and_never_nan(mode, score, than, expected):
    assert Best("val/loss", mode).is_better(score, than) is expected


def test_a_score_that_the_validation_does_not_give_is_an_error_that_names_those_it_does(fit, line, tmp_path):
    callback = Checkpoints(tmp_path, every_n_steps=4, best=Best("val/recall"))
    with pytest.raises(ValueError, match=r"'val/recall', the validation gives val/loss"):
        fit(line(), callback, steps=4, val_check_interval=2, limit_val_batches=1)


def test_what_is_written_is_the_state_of_its_step_although_training_goes_on(fit, line, tmp_path, monkeypatch):
    module, write, moved_on = line(), files.write, threading.Event()

    def slow(content, path):
        if content["global_step"] == 2:
            assert moved_on.wait(20)
        return write(content, path)

    monkeypatch.setattr(files, "write", slow)
    behind = module.on_train_batch_end
    module.on_train_batch_end = lambda *a: (
        behind(*a),
        moved_on.set() if module.trainer.global_step == 5 else None,
    )
    callback = Checkpoints(tmp_path, every_n_steps=100)
    minutes = iter([False, True, False, False, False, False])  # the next save would wait for that of step 2
    monkeypatch.setattr(Checkpoints, "is_due", property(lambda _: next(minutes)))
    fit(module, Preemption(callback), callback, steps=6)
    saved = files.read(tmp_path / "step-00000002.ckpt")["state_dict"]["layer.weight"]
    assert torch.equal(saved, module.weights[2])
    assert not torch.equal(saved, module.weights[3])


def test_minutes_that_have_passed_save_too(fit, line, tmp_path):
    callback = Checkpoints(tmp_path, every_n_steps=1000, every_minutes=1e-9, keep=99)
    fit(line(), Preemption(callback), callback, steps=4)
    assert names(tmp_path) == [f"step-0000000{step}.ckpt" for step in (1, 2, 3, 4)]


def test_a_full_disk_is_warned_of_and_the_run_goes_on(fit, line, tmp_path, monkeypatch):
    write, refused = files.write, []

    def full(content, path):
        if content["global_step"] in (4, 6):
            refused.append(content["global_step"])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(content, path)

    monkeypatch.setattr(files, "write", full)
    with pytest.warns(UserWarning, match="step-00000004.ckpt was not saved .*No space left"):
        fit(line(), Checkpoints(tmp_path, every_n_steps=2, keep=3), steps=7)
    assert refused == [4, 6]  # with one checkpoint left there is no room to be made
    assert names(tmp_path) == ["step-00000002.ckpt", "step-00000007.ckpt"]


def test_room_is_made_on_a_full_disk_while_older_ones_are_left(fit, line, tmp_path, monkeypatch):
    write = files.write

    def full(content, path):
        if len(names(tmp_path)) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(content, path)

    monkeypatch.setattr(files, "write", full)
    fit(line(), Checkpoints(tmp_path, every_n_steps=2, keep=9), steps=9)
    assert names(tmp_path) == ["step-00000006.ckpt", "step-00000008.ckpt", "step-00000009.ckpt"]


def test_weights_that_are_not_finite_are_not_saved(fit, line, tmp_path):
    with pytest.warns(UserWarning, match="layer.weight holds NaN"):
        fit(line(nan_at=(4,)), Checkpoints(tmp_path, every_n_steps=3), steps=6)
    assert names(tmp_path) == ["step-00000003.ckpt"]


def test_a_buffer_that_is_not_finite_is_saved_where_it_was_so_from_the_start_alone(fit, line, tmp_path):
    module = line()
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    module.register_buffer("seen", torch.zeros(1))
    behind = module.on_train_batch_end
    module.on_train_batch_end = lambda *a: (
        behind(*a),
        module.seen.fill_(torch.inf) if module.trainer.global_step == 5 else None,
    )
    with pytest.warns(UserWarning, match="state_dict.seen holds NaN or infinity"):
        fit(module, Checkpoints(tmp_path, every_n_steps=3), steps=6)
    assert names(tmp_path) == ["step-00000003.ckpt"]
    again = line()
    again.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    again.register_buffer("seen", torch.zeros(1))
    fit(again, Checkpoints(tmp_path, every_n_steps=3), steps=6)
    assert list(again.weights) == [4, 5, 6]
    assert names(tmp_path) == ["step-00000003.ckpt", "step-00000006.ckpt"]


def test_a_process_whose_run_another_has_taken_over_writes_nothing_more(fit, line, tmp_path):
    module = line()
    behind = module.on_train_batch_end

    def overtaken(*arguments):
        behind(*arguments)
        if module.trainer.global_step == 5:  # that of step 2 is whole since step 4
            (tmp_path / OWNER).write_text("another")

    module.on_train_batch_end = overtaken
    with pytest.raises(TakenOver, match="another process goes on"):
        fit(module, Checkpoints(tmp_path, every_n_steps=2), steps=9)
    assert "step-00000002.ckpt" in names(tmp_path)
    assert "step-00000006.ckpt" not in names(tmp_path)


def test_a_start_sweeps_what_killed_processes_left(fit, line, tmp_path):
    (tmp_path / ".writing-step-00000001.ckpt").write_bytes(b"half")
    (tmp_path / ".writing-step-00000002.ckpt").mkdir()
    (tmp_path / "step-00000001.ckpt.sha256").write_text("of nothing")
    fit(line(), Checkpoints(tmp_path, every_n_steps=2), steps=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "lightning_logs") == [
        ".owner",
        "latest.ckpt",
        "step-00000002.ckpt",
        "step-00000002.ckpt.sha256",
    ]


@pytest.mark.parametrize("wrong", [{"every_n_steps": 0}, {"keep": 0}, {"every_minutes": 0.0}])
def test_numbers_that_are_not_positive_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match="expected positive numbers"):
        Checkpoints(tmp_path, **{"every_n_steps": 1, **wrong})
