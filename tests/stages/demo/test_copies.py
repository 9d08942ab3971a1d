"""A copy is found wherever it is, and what is not drawn upon does not count."""

import torch

from stages.demo.copies import CHUNK, middle, nearest_share


def test_the_nearest_of_the_known_pictures_counts():
    known = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    units = torch.tensor([[5, 6, 7, 8], [1, 2, 7, 8], [1, 9, 9, 9], [4, 3, 2, 1]])
    assert nearest_share(units, known).tolist() == [1.0, 0.5, 0.25, 0.0]


def test_chunks_change_nothing():
    units, known = torch.randint(0, 4, (2 * CHUNK + 3, 6)), torch.randint(0, 4, (20, 6))
    one_by_one = [max((row == other).float().mean().item() for other in known) for row in units]
    assert torch.allclose(nearest_share(units, known), torch.tensor(one_by_one))
    assert nearest_share(units[:0], known).shape == (0,)


def test_the_middle_is_what_lies_around_the_centre():
    assert middle(torch.arange(16)[None], 2).tolist() == [[5, 6, 9, 10]]
