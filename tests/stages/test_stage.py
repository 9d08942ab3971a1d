"""Stage: factors by prefix, freezing that is freezing, and the schedule."""

import warnings
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from modules.encoders.audio import AudioEncoder
from modules.objectives.contrastive_audio import ContrastiveAudio
from modules.projections import Projection
from stages.optim import Optim, can_be_fused
from stages.precision import HalfWeights
from stages.pretrain import Pretrain
from stages.stage import Stage


class Tiny(Stage):
    def __init__(self, lr_factors=None):
        super().__init__(Optim(lr=0.1, weight_decay=0.5), lr_factors)
        self.encoders = nn.ModuleDict({"image": nn.Linear(4, 4), "imagery": nn.Linear(4, 4)})
        self.encoders["image"].dropout = nn.Dropout()
        self.projection = Projection(4, 2)

    @property
    def input_configs(self):
        return {}

    def losses(self, batch):
        return {}

    def exports(self):
        return {"projection": self.projection}


def rates(stage):
    """Learning rate and decay of every parameter in the optimiser, by name."""
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in stage._groups()
        for p in group["params"]
    }


def test_the_longest_prefix_wins_and_a_prefix_ends_at_a_dot():
    stage = Tiny({"encoders": 0.5, "encoders.image": 0.1})
    found = rates(stage)
    assert found["encoders.image.weight"][0] == pytest.approx(0.01)
    assert found["encoders.imagery.weight"][0] == pytest.approx(0.05)
    assert found["projection.linear.weight"][0] == pytest.approx(0.1)


def test_vectors_are_not_decayed():
    found = rates(Tiny())
    assert found["encoders.image.weight"][1] == 0.5
    assert found["encoders.image.bias"][1] == 0.0
    assert found["projection.query"][1] == 0.0


def test_what_is_decayed_is_decided_before_a_strategy_flattens_the_weights():
    stage = Tiny()
    stage.configure_model()
    expected = rates(stage)
    for parameter in stage.parameters():
        parameter.data = parameter.data.flatten()
    assert rates(stage) == expected


def test_frozen_means_no_gradient_no_training_mode_and_not_in_the_optimiser():
    stage = Tiny({"encoders.image": 0})
    stage.configure_model()
    stage.train()
    frozen = stage.encoders["image"]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen.training
    assert not frozen.dropout.training
    assert stage.encoders["imagery"].training
    assert not [name for name in rates(stage) if name.startswith("encoders.image.")]


def test_weights_are_rounded_before_they_are_spread(monkeypatch):
    stage, seen = Tiny(), {}

    def distribute(module, mesh, methods):
        seen.update({name: value.dtype for name, value in module.named_parameters()})

    monkeypatch.setattr("modules.parallel.distribute", distribute)
    stage._device_mesh = object()
    stage._trainer = SimpleNamespace(precision_plugin=HalfWeights("bf16-true", "cpu"))
    stage.configure_model()
    assert seen["encoders.image.weight"] == torch.bfloat16


def test_a_prefix_that_matches_nothing_is_refused_with_the_nearest_names():
    stage = Tiny({"encoder.image": 0.1})
    with pytest.raises(
        ValueError, match=r"'encoder.image', which matches no parameter; did you mean encoders.image"
    ):
        stage.configure_model()


def test_accumulation_is_refused_where_deepspeed_keeps_the_gradients():
    stage = Tiny()
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)  # which needs the library to be made
    stage._trainer = SimpleNamespace(strategy=strategy, accumulate_grad_batches=4, world_size=1)
    with pytest.raises(ValueError, match=r"accumulate_grad_batches is 4.*set it to 1.*fsdp\.yaml"):
        stage.on_fit_start()
    stage._trainer.accumulate_grad_batches = 1
    stage.on_fit_start()


def test_freezing_everything_is_refused():
    stage = Tiny({"encoders": 0, "projection": 0})
    stage.configure_model()
    with pytest.raises(ValueError, match="nothing to train"):
        stage._groups()


def test_the_schedule_warms_up_linearly_and_ends_at_zero():
    optim = Optim(lr=1.0, warmup_share=0.1)
    factors = torch.tensor([optim.factor(step, 100) for step in range(101)])
    torch.testing.assert_close(factors[:10], torch.arange(1, 11) / 10)
    assert factors[10] == 1
    assert (factors[10:].diff() < 0).all()
    assert factors[100] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": float("nan")}, {"warmup_share": 1.0}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=r"optim\."):
        Optim(**wrong)


def steps_of(optimizer, parameters, gradients):
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = gradient[: parameter.numel()].view_as(parameter).clone()
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def configured(precision="32-true"):
    """A stage's optimiser, as a trainer of so many steps would ask for it."""
    torch.manual_seed(0)
    stage = Tiny({"encoders.image": 0.1})
    stage._trainer = SimpleNamespace(max_steps=10, precision=precision)
    return stage, stage.configure_optimizers()


def test_the_fused_step_is_the_step_of_the_plain_one():
    gradients = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    found = {}
    for precision in ("32-true", "16-mixed"):
        stage, made = configured(precision)
        assert made["optimizer"].defaults["fused"] is (True if precision == "32-true" else None)
        found[precision] = steps_of(made["optimizer"], list(stage.parameters()), gradients)
    torch.testing.assert_close(found["32-true"], found["16-mixed"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("began", ["16-mixed", "32-true"])
def test_a_run_goes_on_with_the_step_of_the_machine_that_it_is_on(began):
    goes_on = "32-true" if began == "16-mixed" else "16-mixed"
    gradients = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    stage, made = configured(began)
    steps_of(made["optimizer"], list(stage.parameters()), gradients[:2])
    weights, state = deepcopy((stage.state_dict(), made["optimizer"].state_dict()))
    again, other = configured(goes_on)
    again.load_state_dict(weights)
    other["optimizer"].load_state_dict(state)
    assert {group["fused"] for group in other["optimizer"].param_groups} == {
        True if goes_on == "32-true" else None
    }
    expected = steps_of(made["optimizer"], list(stage.parameters()), gradients[2:])
    found = steps_of(other["optimizer"], list(again.parameters()), gradients[2:])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_schedule_reaches_the_fused_step():
    stage, made = configured()
    scheduler = made["lr_scheduler"]["scheduler"]
    steps_of(made["optimizer"], list(stage.parameters()), torch.ones(1, 64))
    scheduler.step()
    before = stage.optim.factor(1, 10)
    assert [group["lr"] for group in made["optimizer"].param_groups] == pytest.approx(
        [0.1 * before, 0.1 * before, 0.01 * before, 0.01 * before]
    )


def test_parameters_on_two_kinds_of_device_are_not_stepped_by_one_kernel():
    here, there = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))
    assert can_be_fused([{"params": [here]}])
    assert not can_be_fused([{"params": [here]}, {"params": [there]}])
    assert not can_be_fused([{"params": [there]}])


@pytest.mark.parametrize(
    ("ranks", "factors", "is_warned"), [(2, {}, True), (1, {}, False), (2, {"encoders": 0}, False)]
)
def test_a_batch_norm_that_is_trained_on_several_ranks_is_named(ranks, factors, is_warned):
    stage = Tiny(factors)
    stage.encoders["image"].norm = nn.BatchNorm1d(4)
    stage._trainer = SimpleNamespace(
        world_size=ranks, accumulate_grad_batches=1, model=stage, strategy=SimpleNamespace(device_mesh=None)
    )
    for name, parameter in stage.named_parameters():
        parameter.requires_grad_(not any(name.startswith(prefix) for prefix in factors))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stage.on_fit_start()
    said = [str(each.message) for each in caught if "batch norms" in str(each.message)]
    assert bool(said) == is_warned
    assert all("encoders.image have batch norms" in each for each in said)


@pytest.mark.parametrize(
    ("weight", "batches", "is_refused"), [(0.1, 2, True), (0.1, 1, False), (0.0, 2, False)]
)
def test_diversity_of_a_batch_of_codes_is_not_accumulated(weight, batches, is_refused):
    encoder = AudioEncoder(
        {"model_type": "modernbert", "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
        | {"num_hidden_layers": 1, "global_attn_every_n_layers": 1},
        sampling_rate=8000,
        max_seconds=0.5,
        num_mels=20,
    )
    stage = Pretrain(
        "audio",
        encoder,
        lambda encoder: ContrastiveAudio(encoder, num_codes=4, dim=16, diversity_weight=weight),
    )
    strategy = SimpleNamespace(device_mesh=None)
    stage._trainer = SimpleNamespace(
        world_size=1, accumulate_grad_batches=batches, model=stage, strategy=strategy
    )
    if not is_refused:
        return stage.on_fit_start()
    with pytest.raises(ValueError, match=r"is 2, but the loss compares .* raise data.batch_size"):
        stage.on_fit_start()
