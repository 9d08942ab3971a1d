"""Watchdog: a run that stands still ends with code 75, one that moves does not."""

import time

import pytest

from callbacks.watchdog import Watchdog

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs


@pytest.fixture
def ended(monkeypatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr("callbacks.watchdog.os._exit", codes.append)
    return codes


def test_a_step_that_hangs_ends_the_process_and_says_where_it_stood(fit, line, ended, capfd):
    module = line()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        time.sleep(1.5 * (batch.cursor == 2)),
        step(batch, batch_idx),
    )[1]
    fit(module, Watchdog(0.5), steps=3)
    assert set(ended) == {75}
    message = capfd.readouterr().err
    assert "nothing has moved for" in message
    assert "test_watchdog.py" in message


def test_a_run_longer_than_the_timeout_goes_on_while_it_moves(fit, line, ended):
    module = line()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (time.sleep(0.2), step(batch, batch_idx))[1]
    fit(module, Watchdog(0.8), steps=8)
    assert ended == []


def test_a_run_that_ended_or_failed_is_watched_no_more(fit, line, ended):
    module = line()
    module.training_step = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(module, Watchdog(0.2), steps=1)
    fit(line(), Watchdog(0.2), steps=1)
    time.sleep(0.8)
    assert ended == []


def test_a_timeout_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="stall_timeout_s is 0"):
        Watchdog(0.0)
