"""The demo checkpoint keeps what the README says of it. Minutes, so not among the ordinary tests."""

import json
import os
import subprocess
import sys

import pytest

from runner.host import REPOSITORY


@pytest.mark.slow
def test_the_checkpoint_reaches_its_goals(comfy_folder, checkpoint, tmp_path):
    command = [sys.executable, "-m", "demo.figures", "--checkpoint", str(checkpoint), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "COMFYUI_PATH": str(comfy_folder)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "figures.json").read_text())["samples"]
