"""Order: a permutation of each epoch, the same from any position, shard by shard where that is asked for."""

import numpy as np
import pytest

from datamodules.shards.order import Order


def test_order_is_a_permutation_of_each_epoch():
    order = Order(100, seed=1)
    epochs = np.array([[order(epoch * 100 + place) for place in range(100)] for epoch in range(3)])
    assert (np.sort(epochs, axis=1) == np.arange(100)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (5, 12), (6, 30), (13, 14), (7, 7), (10**9, 10**9 + 20)])
def test_a_span_is_what_its_positions_are(start, stop, shuffle):
    order = Order(7, seed=3, shuffle=shuffle)
    assert order.span(start, stop).tolist() == [order(position) for position in range(start, stop)]


def test_a_far_position_permutes_its_own_epoch_and_no_other(monkeypatch):
    order, made = Order(1000, seed=0), []
    permuted = order._permuted
    monkeypatch.setattr(order, "_permuted", lambda generator: made.append(1) or permuted(generator))
    order.span(10**12, 10**12 + 64)
    assert len(made) == 1


def test_samples_are_shuffled_within_so_many_shards_at_a_time():
    shards = np.repeat(np.arange(6), [5, 0, 8, 3, 9, 4])
    order = Order(len(shards), seed=1, shards=shards, shards_at_once=2)
    for epoch in range(3):
        samples = order.span(epoch * 29, (epoch + 1) * 29)
        assert sorted(samples) == list(range(29))
        seen = shards[samples]
        windows = {
            shard: (np.flatnonzero(seen == shard).min(), np.flatnonzero(seen == shard).max())
            for shard in seen
        }
        at_once = [sum(first <= place <= last for first, last in windows.values()) for place in range(29)]
        assert max(at_once) == 2
    assert order.span(0, 29).tolist() != order.span(29, 58).tolist()


def test_no_samples_have_no_order():
    with pytest.raises(ValueError, match="there are no samples"):
        Order(0, seed=0)
