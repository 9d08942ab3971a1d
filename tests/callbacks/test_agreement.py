"""Agreement: all ranks act on what any of them said, at the same step."""

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from callbacks.agreement import Agreement


def test_one_process_has_its_answer_at_once():
    assert Agreement(2).sums(1.0, 0.0) == [1.0, 0.0]


def one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    agreement = Agreement(2)
    heard = [agreement.sums(float(rank == 1 and step == 2), 1.0) for step in range(5)]
    assert heard == [[0.0, 0.0], [0.0, 2.0], [0.0, 2.0], [1.0, 2.0], [0.0, 2.0]]
    dist.destroy_process_group()


@pytest.mark.slow
def test_what_one_rank_says_all_ranks_hear_at_the_next_step(tmp_path):
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
