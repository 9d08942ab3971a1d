"""The index of codes against looking at all of them."""

import random

import pytest

from datamodules.preparation.cleaning.hamming import HammingIndex


def codes(count, num_bits, seed):
    """Return codes in clusters, so that every small distance occurs."""
    draw = random.Random(seed)
    found = [draw.getrandbits(num_bits) for _ in range(count // 4)]
    while len(found) < count:
        code = draw.choice(found)
        for bit in draw.sample(range(num_bits), draw.randrange(min(14, num_bits))):
            code ^= 1 << bit
        found.append(code)
    return draw.sample(found, count)


@pytest.mark.parametrize("num_bits", [16, 64, 144])
@pytest.mark.parametrize("max_distance", [0, 1, 2, 5, 6, 10])
def test_the_nearest_code_is_that_of_a_search_through_all(num_bits, max_distance):
    *known, last = codes(400, num_bits, seed=max_distance)
    index = HammingIndex(num_bits, max_distance)
    for code in known:
        index.add(code)
    for code in [*codes(100, num_bits, seed=99), *known[:50], last, known[7] ^ 1]:
        distances = [((code ^ other).bit_count(), number) for number, other in enumerate(known)]
        nearest = min(distances)
        assert index.nearest(code) == (nearest if nearest[0] <= max_distance else None)


def test_distances_do_not_depend_on_the_order_in_which_codes_were_added():
    known, asked = codes(300, 64, seed=0), codes(50, 64, seed=1)
    indices = [HammingIndex(64, 8), HammingIndex(64, 8)]
    for index, order in zip(indices, (known, known[::-1]), strict=True):
        for code in order:
            index.add(code)
    near = [[found and found[0] for found in map(index.nearest, asked)] for index in indices]
    assert near[0] == near[1]


@pytest.mark.parametrize("max_distance", [-1, 64])
def test_distances_that_make_no_sense_are_refused(max_distance):
    with pytest.raises(ValueError, match="expected from 0 to 63"):
        HammingIndex(64, max_distance)
