"""Recall@k: worked-out numbers, ties, and the same outcome for any batches, blocks and ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from modules.metrics.retrieval import RetrievalRecall, ranks


def unit(rows: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=-1)


def noisy_pair(rows: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    first = unit(rows)
    return first, nn.functional.normalize(first + 0.9 * unit(rows, seed=1), dim=-1)


def computed(first: torch.Tensor, second: torch.Tensor, batch_size: int, block_rows: int = 1024) -> dict:
    metric = RetrievalRecall(block_rows=block_rows)
    for pair in zip(first.split(batch_size), second.split(batch_size), strict=True):
        metric.update(*pair)
    return metric.compute()


def test_recalls_are_those_worked_out_by_hand():
    angles = torch.tensor([0.0, 1.0, 2.0])  # radians on a circle: the nearest angle is the nearest vector
    shifted = torch.tensor([0.1, 0.2, 2.1])
    first, second = (torch.stack((angle.cos(), angle.sin()), 1) for angle in (angles, shifted))
    metric = RetrievalRecall(ks=(1, 2))
    metric.update(first, second)
    recall = metric.compute()
    # 0.0 → 0.1 right; 1.0 → 0.2 right; 2.0 → 2.1 right. Back: 0.1 → 0.0 right; 0.2 → 0.0 wrong, then 1.0; 2.1 → 2.0.
    assert recall["forward"] == {"recall_at_1": 1.0, "recall_at_2": 1.0}
    assert recall["backward"]["recall_at_1"].item() == pytest.approx(2 / 3)
    assert recall["backward"]["recall_at_2"] == 1.0


def test_recall_agrees_with_torchmetrics_own_where_nothing_ties():
    from torchmetrics.retrieval import RetrievalRecall as PerQuery

    first, second = noisy_pair()
    similarity = first @ second.T
    own = torch.eye(len(first), dtype=torch.bool)
    queries = torch.arange(len(first)).unsqueeze(1).expand_as(own)
    for name, k in (("recall_at_1", 1), ("recall_at_5", 5)):
        reference = PerQuery(top_k=k)(similarity.flatten(), own.flatten(), indexes=queries.flatten())
        assert computed(first, second, 7)["forward"][name].item() == pytest.approx(reference.item())
        assert 0.1 < reference < 0.99


@pytest.mark.parametrize("batch_size", [1, 7, 60])
@pytest.mark.parametrize("block_rows", [1, 16, 1024])
def test_batches_and_blocks_do_not_change_the_recall(batch_size, block_rows):
    assert computed(*noisy_pair(), batch_size, block_rows) == computed(*noisy_pair(), 60)


def test_vectors_that_are_all_alike_find_nothing():
    collapsed = unit(1).expand(20, -1)
    assert all(
        value == 0 for recall in computed(collapsed, collapsed, 20).values() for value in recall.values()
    )


def test_a_duplicate_of_the_right_answer_counts_against_it():
    first = unit(10)
    second = first.clone()
    second[3] = second[7]
    assert ranks(first, second)[7] == 1
    assert ranks(first, second)[[0, 1, 2, 4, 5, 6, 8, 9]].tolist() == [0] * 8


def test_candidates_of_one_content_count_once_and_are_right_for_every_query_that_has_it():
    first = unit(6)
    second = first[[0, 0, 0, 3, 4, 5]]  # three rows share a second
    contents = torch.tensor([[0, 9], [1, 9], [2, 9], [3, 3], [4, 4], [5, 5]])
    assert ranks(first, second, contents)[0] == 0
    similarity = first @ first.T
    wrong = similarity[1, [3, 4, 5]] > similarity[1, 0]
    assert ranks(first, second, contents)[1] == wrong.sum()


def test_what_stands_beside_a_query_of_the_same_content_is_right():
    first = unit(4)[[0, 0, 2, 3]]
    second = unit(4)[[1, 0, 2, 3]]  # the first query's own is far, its twin's is near
    assert ranks(first, second)[0] > 0
    assert ranks(first, second, torch.tensor([[0, 0], [0, 1], [2, 2], [3, 3]]))[0] == 0


def test_contents_that_are_all_different_change_nothing():
    first, second = noisy_pair()
    contents = torch.randperm(120).view(60, 2)
    metric = RetrievalRecall(block_rows=7)
    for start in range(0, 60, 9):
        rows = slice(start, start + 9)
        metric.update(first[rows], second[rows], contents[rows])
    assert metric.compute() == computed(first, second, 60)


def test_contents_of_some_rows_only_are_refused():
    metric = RetrievalRecall()
    with pytest.raises(ValueError, match=r"contents is \(3,\), expected \(3, 2\)"):
        metric.update(unit(3), unit(3), torch.arange(3))
    metric.update(unit(3), unit(3))
    metric.update(unit(2), unit(2), torch.zeros(2, 2).long())
    with pytest.raises(ValueError, match="contents of 2 rows, expected those of all 5"):
        metric.compute()


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 8\).*\(4, 8\).*the same of both"):
        RetrievalRecall().update(unit(3), unit(4))


def test_computing_before_the_first_row_is_refused():
    metric = RetrievalRecall()
    metric.update(unit(0), unit(0))
    with pytest.raises(ValueError, match="no row was given"), pytest.warns(UserWarning):
        RetrievalRecall().compute()
    with pytest.raises(ValueError, match="no row was given"):
        metric.compute()


UNEVEN = ([*range(23)], [*range(23, 60)])
ALL_ON_ONE = ([*range(60)], [])


def _on_one_rank(rank: int, store: str, outcome: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    first, second = noisy_pair()
    recalls = []
    for shares in (UNEVEN, ALL_ON_ONE):
        metric = RetrievalRecall()
        for rows in torch.tensor(shares[rank], dtype=torch.long).split(4):
            metric.update(first[rows], second[rows])
        recalls.append(metric.compute())
    if rank == 0:
        torch.save(recalls, outcome)
    dist.destroy_process_group()


def test_ranks_see_each_other_s_rows_also_when_one_has_none(tmp_path):
    outcome = tmp_path / "recalls.pt"
    args = (str(tmp_path / "store"), str(outcome))
    mp.start_processes(
        _on_one_rank, args, nprocs=2, start_method="fork"
    )  # spawned, each would import for seconds
    assert torch.load(outcome, weights_only=True) == [computed(*noisy_pair(), 60)] * 2
