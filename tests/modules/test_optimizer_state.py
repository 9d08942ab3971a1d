"""Optimiser states find their parameters by name, whatever groups those are in."""

import pytest
import torch
from torch import nn

from modules.optimizer_state import StateError, by_name, names_of, numbered, regrouped, regrouped_schedule


@pytest.fixture
def module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def optimizer_of(module: nn.Module, groups: list[tuple[list[str], float]]) -> torch.optim.Optimizer:
    named = dict(module.named_parameters())
    return torch.optim.AdamW(
        [{"params": [named[n] for n in names], "lr": lr} for names, lr in groups], lr=1.0
    )


def stepped(module: nn.Module, groups: list[tuple[list[str], float]]) -> torch.optim.Optimizer:
    optimizer = optimizer_of(module, groups)
    module(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return optimizer


THREE = [(["0.weight"], 0.1), (["1.weight"], 0.1), (["0.bias", "1.bias"], 0.2)]
TWO = [(["1.bias", "0.bias"], 0.2), (["1.weight", "0.weight"], 0.1)]


def test_a_state_returns_to_the_same_parameters_in_other_groups(module):
    before = stepped(module, THREE)
    after = optimizer_of(module, TWO)
    saved = by_name(before.state_dict(), names_of(module, before))
    after.load_state_dict(numbered(regrouped(saved, names_of(module, after))))
    assert [group["lr"] for group in after.param_groups] == [0.2, 0.1]
    for name, parameter in module.named_parameters():
        for key, value in before.state[parameter].items():
            torch.testing.assert_close(after.state[parameter][key], value, atol=0, rtol=0, msg=name)


def test_a_schedule_has_the_rate_of_each_new_group(module):
    before, after = stepped(module, THREE), optimizer_of(module, TWO)
    schedule = torch.optim.lr_scheduler.LambdaLR(before, lambda step: 0.5**step)
    before.step()
    schedule.step()
    state = regrouped_schedule(schedule.state_dict(), names_of(module, before), names_of(module, after))
    assert state["base_lrs"] == [0.2, 0.1]
    assert state["last_epoch"] == 1


def test_groups_that_had_other_rates_do_not_become_one(module):
    before = stepped(module, [(["0.weight"], 0.1), (["1.weight"], 0.3), (["0.bias", "1.bias"], 0.2)])
    saved = by_name(before.state_dict(), names_of(module, before))
    with pytest.raises(StateError, match=r"another lr each \(0.1, 0.3\)"):
        regrouped(saved, names_of(module, optimizer_of(module, TWO)))


def test_a_state_of_other_parameters_is_refused(module):
    before = stepped(module, THREE)
    saved = by_name(before.state_dict(), names_of(module, before))
    with pytest.raises(StateError, match=r"differ in 2 parameters \(0.bias, 1.bias\)"):
        regrouped(saved, [["0.weight", "1.weight"]])


def test_a_state_with_fewer_parameters_than_names_is_refused(module):
    before = stepped(module, THREE)
    with pytest.raises(StateError, match="not as many parameters"):
        by_name(before.state_dict(), [["0.weight"]])
