"""The short version of tools/crash_recovery.py: verbs that are killed or whose file calls fail recover."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "crash_recovery.py"


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("gcc") is None, reason="needs gcc and LD_PRELOAD"
)
def test_disturbed_verbs_recover():
    command = [sys.executable, str(TOOL), "--events", "12", "--verbs", "prepare,predict,clean,train"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 12 of 12 |" in done.stdout
