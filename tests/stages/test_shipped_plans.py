"""Every shipped config of a training stage is planned, from whatever it starts."""

from pathlib import Path

import pytest
import shipped_inputs

from stages.cli import run
from stages.planning import Plan

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
STAGES = {
    "pretrain": "stages.pretrain.Pretrain",
    "align": "stages.align.Align",
    "transfer": "stages.transfer.Transfer",
    "instruct": "stages.instruct.Instruct",
    "unify": "stages.unify.unify.Unify",
}
SLOW = {"captioning", "four", "latent", "matching", "siglip", "media_attention", "by_quality", "regression"}
"""What differs from the others in parts that are planned elsewhere."""
ON_A_HUB = {"tagging"}
CONFIGS = sorted(
    path for stage in STAGES for path in (shipped_inputs.CONFIGS / stage).glob("*.yaml") if path.stem not in ON_A_HUB
)  # fmt: skip


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
        monkeypatch.setattr("stages.planning.report", lambda plan, *_: found.append(plan))
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
