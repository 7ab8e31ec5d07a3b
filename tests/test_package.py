"""What others install: the source distribution, the wheel that is built from it, and the command in it."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **kwargs):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=240, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both files. Built from a copy of what is committed or could be, so that nothing is left here."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("src", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        whole = ROOT / name
        files = [path for path in whole.rglob("*") if path.is_file()] if whole.is_dir() else [whole]
        for file in files:
            if "__pycache__" not in file.parts and not any(part.endswith(".egg-info") for part in file.parts):
                copy = source / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
    return target


@pytest.mark.slow
def test_both_hold_every_module_and_nothing_else(built):
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    own = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "subtuning_hf").rglob("*.py")}
    own.add("subtuning_hf/py.typed")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = next(file.read(name).decode() for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        licences = [name for name in file.namelist() if name.endswith("LICENSE")]
    assert names == own and len(own) > 200 and licences
    assert "Requires-Python: >=3.11" in metadata and "Provides-Extra: plots" in metadata
    with tarfile.open(archive) as file:
        inside = {name.partition("/src/")[2] for name in file.getnames() if name.endswith((".py", "py.typed"))}
    assert own <= inside


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # What it needs is that of this environment; an editable install there is not, since its own files are not followed.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "architectures": ["ResNetModel"]}))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shared = {"env": clean, "cwd": tmp_path}
    where = run(python, "-c", "import subtuning_hf; print(subtuning_hf.__file__)", **shared)
    assert Path(where.strip()).is_relative_to(site)
    command = tmp_path / "env" / "bin" / "subtuning"
    assert "compare" in run(command, "--help", **shared)
    shown = run(command, "blocks", tmp_path / "config.json", **shared)
    assert "stages.3.layers.2" in shown
