"""Checkpoints that were damaged, exchanged or forged give no part: each is refused by name, with what to do."""

import os

import pytest
import torch
from sabotage import edit_checkpoint, refused

from modules import parts


def checkpoint_is_missing(run):
    run.checkpoint.rename(run.checkpoint.with_name("step-00000004.ckpt"))


def checkpoint_is_truncated(run):
    data = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(data[: len(data) // 2])


def checkpoint_is_sharded(run):
    run.checkpoint.unlink()
    run.checkpoint.mkdir()
    (run.checkpoint / "__0_0.distcp").touch()


def checkpoint_is_a_part_folder(run):
    run.checkpoint.unlink()
    run.part.rename(run.checkpoint)


class Forged:
    def __reduce__(self):
        return os.system, ("true",)


def checkpoint_is_a_pickle_that_runs_code(run):
    torch.save({"parts": Forged(), "state_dict": {}}, run.checkpoint)


def checkpoint_is_a_list(run):
    torch.save([torch.zeros(1)], run.checkpoint)


def checkpoint_is_of_another_project(run):
    edit_checkpoint(run.checkpoint, lambda checkpoint: checkpoint.pop("parts"))


def checkpoint_has_no_weights(run):
    edit_checkpoint(run.checkpoint, lambda checkpoint: checkpoint.pop("state_dict"))


def checkpoint_has_no_such_part(run):
    def rename(checkpoint):
        checkpoint["parts"]["projections.imagine"] = checkpoint["parts"].pop("projections.image")

    edit_checkpoint(run.checkpoint, rename)


def checkpoint_has_a_typo_in_the_prefix(run):
    edit_checkpoint(
        run.checkpoint, lambda c: c["parts"]["projections.image"].update(prefix="projection.image.")
    )


def checkpoint_says_half_of_a_part(run):
    edit_checkpoint(run.checkpoint, lambda c: c["parts"]["projections.image"].pop("card"))


def checkpoint_says_a_part_by_a_word(run):
    edit_checkpoint(run.checkpoint, lambda c: c["parts"].update({"projections.image": "Projection"}))


def checkpoint_lacks_a_tensor(run):
    edit_checkpoint(run.checkpoint, lambda c: c["state_dict"].pop("projections.image.query"))


def checkpoint_has_a_flat_shard(run):
    edit_checkpoint(
        run.checkpoint, lambda c: c["state_dict"].update({"projections.image.linear.weight": torch.zeros(16)})
    )


def checkpoint_has_nan(run):
    edit_checkpoint(run.checkpoint, lambda c: c["state_dict"]["projections.image.query"].fill_(torch.nan))


def checkpoint_has_a_word_for_a_tensor(run):
    edit_checkpoint(run.checkpoint, lambda c: c["state_dict"].update({"projections.image.query": "zeros"}))


def checkpoint_names_a_foreign_class(run):
    edit_checkpoint(
        run.checkpoint, lambda c: c["parts"]["projections.image"]["card"].update(class_path="os.system")
    )


def checkpoint_brings_another_asset(run):
    edit_checkpoint(run.checkpoint, lambda c: c["parts"]["projections.image"].update(assets={"a.json": "{}"}))


IN_A_CHECKPOINT = {
    checkpoint_is_missing: r"no checkpoint at .*step-00000002.ckpt.*holds: step-00000004.ckpt",
    checkpoint_is_truncated: "is not a readable checkpoint.*take an earlier one",
    checkpoint_is_sharded: "is a directory of shards, expected a Lightning checkpoint.*with .metadata and meta.pt",
    checkpoint_is_a_part_folder: "is a directory with a card, expected a Lightning checkpoint.*or a part folder",
    checkpoint_is_a_pickle_that_runs_code: "is not a readable checkpoint of tensors and plain values",
    checkpoint_is_a_list: "holds a list, expected a Lightning checkpoint",
    checkpoint_is_of_another_project: "holds no parts: it was not written by one of this project's stages",
    checkpoint_has_no_weights: "does not say of part .*state_dict",
    checkpoint_has_no_such_part: "holds no part 'projections.image'; it holds: projections.imagine, encoders.text",
    checkpoint_has_a_typo_in_the_prefix: "missing: linear.weight, norm.bias, norm.weight, query",
    checkpoint_says_half_of_a_part: "does not say of part 'projections.image'.*card",
    checkpoint_says_a_part_by_a_word: "does not say of part 'projections.image'",
    checkpoint_lacks_a_tensor: "missing: query",
    checkpoint_has_a_flat_shard: r"'linear.weight' is float32 \[16\], its card says float32 \[4, 8\]",
    checkpoint_has_nan: "query' holds NaN or infinity: take an earlier checkpoint",
    checkpoint_has_a_word_for_a_tensor: "'query' is a str, expected a tensor",
    checkpoint_names_a_foreign_class: "names the class 'os.system'",
    checkpoint_brings_another_asset: "the assets.*not known: a.json",
}


@pytest.mark.parametrize("sabotage", IN_A_CHECKPOINT, ids=lambda function: function.__name__)
def test_a_part_of_a_sabotaged_checkpoint_is_refused_by_name(sabotage, finished):
    assert parts.load(f"{finished.checkpoint}#projections.image")
    sabotage(finished)
    refused(f"{finished.checkpoint}#projections.image", IN_A_CHECKPOINT[sabotage])
