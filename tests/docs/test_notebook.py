"""The notebook runs from an empty folder, and what is saved in it came from a whole run in order."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_there_is_a_notebook():
    assert [path.stem for path in NOTEBOOKS] == ["digits_end_to_end"]


def test_outputs_are_saved_and_clean(notebook):
    cells = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 2
    told = json.dumps(outputs)
    assert "/tmp" not in told and "/home" not in told and "/root" not in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs(notebook, tmp_path):
    pytest.importorskip("nbmake")
    pytest.importorskip("ipykernel")
    shutil.copy(notebook, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-p", "no:cacheprovider", "-q",
         notebook.name],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]  # of plugins of pytest
    assert left == [notebook.name], "it left files in the reader's folder"
