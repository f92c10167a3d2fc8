"""The short version of tools/crash_recovery.py: verbs that are killed or whose file calls fail recover."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "crash_recovery.py"


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("gcc") is None, reason="needs gcc and LD_PRELOAD"
)
def test_disturbed_verbs_recover():
    verbs = "prepare,train,predict,clean,vectorize,evaluate,report"
    command = [sys.executable, str(TOOL), "--events", "19", "--verbs", verbs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 19 of 19 |" in done.stdout
