"""Sharded: what its numbers must be is said before the first step."""

from commands import refusal


def test_copies_and_splits_that_do_not_divide_the_ranks_are_refused(config, capsys, monkeypatch):
    sharded = {
        "class_path": "stages.strategies.Sharded",
        "init_args": {"tensor_parallel_size": 1, "replicas": 2},
    }
    config["trainer"] |= {"strategy": sharded, "devices": 1}
    message = refusal(config, capsys, monkeypatch)
    assert "tensor_parallel_size 1 times replicas 2 does not divide the 1 ranks (1 nodes of 1)" in message
