"""Every shipped config of a training stage is planned, from whatever it starts."""

from pathlib import Path

import pytest
import shipped_inputs

from stages.cli import run
from stages.planning.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
STAGES = {
    "pretrain": "stages.pretrain.Pretrain",
    "align": "stages.align.Align",
    "transfer": "stages.transfer.Transfer",
    "instruct": "stages.instruct.Instruct",
    "unify": "stages.unify.unify.Unify",
}
SLOW = {
    *("captioning", "four", "latent", "matching", "siglip"),
    *("media_attention", "lora", "by_quality", "regression", "image_from_text"),
    *("tagging", "web_pairs"),
}
"""Those that differ from the others in parts that are planned elsewhere, and large ones."""
CONFIGS = sorted(path for stage in STAGES for path in (shipped_inputs.CONFIGS / stage).glob("*.yaml"))


@pytest.fixture(scope="session")
def root(scenes, tmp_path_factory) -> Path:
    """A folder from which the commands of the configs can be run."""
    folder = tmp_path_factory.mktemp("shipped")
    shipped_inputs.make(folder, scenes[3])
    return folder


@pytest.fixture
def planned(root, monkeypatch):
    """Return a function from a config, and what is said behind it, to its plan."""
    monkeypatch.chdir(root)

    def planned(config: Path, *more: str) -> Plan:
        found: list[Plan] = []
        monkeypatch.setattr("stages.planning.report.report", lambda plan, *_: found.append(plan))
        run(STAGES[config.parent.name], ["plan", "--config", str(config), *more])
        return found[0]

    return planned


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(path, id=f"{path.parent.name}-{path.stem}", marks=[pytest.mark.slow] * (path.stem in SLOW))
        for path in CONFIGS
    ],
)  # fmt: skip
def test_a_shipped_config_is_planned(config, planned):
    plan = planned(config)
    assert plan.flops > 0
    assert plan.peak > plan.memory["weights"] > 0


TRAINED_BY = sorted(path.stem for path in (shipped_inputs.CONFIGS / "trainer").glob("*.yaml"))


@pytest.mark.parametrize("trainer", TRAINED_BY)
def test_a_shipped_trainer_is_planned_with_weights_of_16_bits(trainer, planned):
    given = str(shipped_inputs.CONFIGS / f"trainer/{trainer}.yaml")
    config = shipped_inputs.CONFIGS / "pretrain/text_causal.yaml"
    plan = planned(config, "--config", given, "--trainer.precision", "bf16-true")
    assert plan.layout.has_half_weights
    assert plan.flops > 0


OF_EACH_STAGE = [
    "pretrain/text_causal",
    "align/infonce",
    "instruct/spoken_scenes",
    "transfer/classification",
    "unify/scenes",
]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINED_BY)
@pytest.mark.parametrize("name", OF_EACH_STAGE)
def test_every_stage_is_planned_with_every_trainer_or_refused_as_fit_does(name, trainer, planned, capsys):
    config = shipped_inputs.CONFIGS / f"{name}.yaml"
    given = str(shipped_inputs.CONFIGS / f"trainer/{trainer}.yaml")
    devices = "1" if trainer in ("cpu", "gpu") else "2"
    try:
        assert planned(config, "--config", given, "--trainer.devices", devices).flops > 0
    except SystemExit as stopped:
        assert stopped.code == 2
        assert trainer in ("pipeline", "tensor_parallel"), capsys.readouterr().err


def test_accumulation_keeps_gradients_beside_activations(planned):
    config = shipped_inputs.CONFIGS / "pretrain/text_masked.yaml"
    once = planned(config)
    twice = planned(config, "--trainer.accumulate_grad_batches", "4")
    assert twice.peak > once.peak
    assert twice.flops == pytest.approx(once.flops, rel=0.01)  # tokens are drawn anew


@pytest.mark.parametrize(
    "trainer, message",
    [
        ("pipeline", "a pipeline divides no language model with an adapter"),
        ("tensor_parallel", "not plain ones, as with an adapter"),
    ],
)
def test_an_adapter_is_refused_as_fit_does_where_it_is_spread(trainer, message, planned, capsys):
    given = str(shipped_inputs.CONFIGS / f"trainer/{trainer}.yaml")
    with pytest.raises(SystemExit):
        planned(shipped_inputs.CONFIGS / "instruct/lora.yaml", "--config", given, "--trainer.devices", "2")
    assert message in capsys.readouterr().err
