"""The configs on the page about encoders are ones that align takes."""

import re
from pathlib import Path

import pytest

import stages.cli

PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
CONFIGS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
REST = """
  dim: 8
  objective: {class_path: modules.objectives.contrastive.InfoNCE}
run_dir: runs/x
data: {train: x, batch_size: 2}
trainer: {max_steps: 1}
"""


@pytest.mark.parametrize("config", CONFIGS)
def test_every_key_of_a_config_on_the_page_is_known(config, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(config + REST, encoding="utf-8")
    assert stages.cli.parse("stages.align.Align", ["fit", "--config", str(file)]) is not None


def test_a_wrong_key_within_an_encoder_within_an_encoder_is_refused(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(CONFIGS[0].replace("init_args: {path:", "init_args: {paht:") + REST, encoding="utf-8")
    with pytest.raises(SystemExit):
        stages.cli.parse("stages.align.Align", ["fit", "--config", str(file)])
    assert "paht" in capsys.readouterr().err


def test_every_class_on_the_page_is_there():
    import importlib

    from modules.encoders.encoder import Encoder

    cells = re.findall(r"^\| \w+ \| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(\w+)\.(\w+)`", cell)]
    assert len(names) == 17
    for module, name in names:
        assert issubclass(vars(importlib.import_module(f"modules.encoders.{module}"))[name], Encoder)
