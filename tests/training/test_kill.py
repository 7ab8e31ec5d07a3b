"""A search killed with SIGKILL in a process of its own, and continued in this one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subtuning_hf.search.journal import find_study
from training.cases import count_trainings, make_trainer

SCRIPT = """
import sys
from training.cases import make_trainer
make_trainer(sys.argv[1], args={"max_blocks": 2}).search()
"""


def scores(folder):
    return {(e.candidate, e.fold): e.score for e in find_study(folder / "journal").evaluations}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_and_resume(tmp_path, monkeypatch):
    out = tmp_path / "out"
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        while (study := find_study(out / "journal")) is None or len(study.evaluations) < 3:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = scores(out)
    trainings = count_trainings(monkeypatch)
    resumed = make_trainer(out, args={"max_blocks": 2}).search()
    repeated = len(trainings)
    whole = make_trainer(tmp_path / "whole", args={"max_blocks": 2}).search()
    assert repeated + len(done) == len(scores(out)) == len(trainings) - repeated
    assert resumed.blocks == whole.blocks
    assert scores(out) == scores(tmp_path / "whole")
    assert all(scores(out)[key] == score for key, score in done.items())
    assert not list(out.glob(".candidate-*"))
