"""The examples, run as a reader would."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from builders import write_few_rows
from pages import ROOT
from transformers import Qwen3OmniMoeForConditionalGeneration


def test_the_estimates_of_a_night_are_those_that_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "benchmarks" / "expected_night.py"), run_name="__main__")
    said = capsys.readouterr().out
    page = (ROOT / "docs" / "overnight.md").read_text()
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert "\n".join(table) in page


@pytest.mark.slow
def test_the_steps_in_python_score_candidates_and_write_one(tmp_path: Path) -> None:
    script = ROOT / "examples" / "in_python.py"
    assert len([line for line in script.read_text().splitlines() if line]) <= 20
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals/tiny").symlink_to(ROOT / "evals/tiny")
    (tmp_path / "calibration").symlink_to(ROOT / "calibration")
    write_few_rows(tmp_path / "evals/tiny.yaml", 40)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.check_output([sys.executable, str(script)], cwd=tmp_path, env=environment, text=True)
    assert said.count("of the experts: WER") == 2
    _, info = Qwen3OmniMoeForConditionalGeneration.from_pretrained(tmp_path / "pruned", output_loading_info=True)
    assert not any(info.values()), info
