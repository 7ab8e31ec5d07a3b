"""What importing loads, how PEFT comes to know the adapter type, and that imports point down."""

import ast
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import subtuning_hf

PACKAGE = Path(subtuning_hf.__file__).parent
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "matplotlib")
FLOORS = {
    "errors": 0,
    "_version": 0,
    "_register": 0,
    "__init__": 0,
    "search": 1,
    "blocks": 2,
    "tuner": 3,
    "prefix": 4,
    "proposal": 5,
    "multitask": 5,
    "plots": 5,
    "hub": 5,
    "report": 5,
    "training": 6,
    "compare": 7,
    "cli": 8,
}


def run_python(code: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run code in a fresh process."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240, env=environment
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


# --- direction of imports --------------------------------------------------------------------
def parts() -> set[str]:
    return {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Every part of the package a file imports, also inside functions: (line, part)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            typing_only.update(id(inner) for inner in ast.walk(node))
    found = []
    for node in ast.walk(tree):
        # Only the package's own lazy front may name what is above it, and only for type checkers.
        if id(node) in typing_only and path == PACKAGE / "__init__.py":
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["subtuning_hf", *path.relative_to(PACKAGE).parts[:-1]]
            origin = package[: len(package) + 1 - node.level] if node.level else []
            names = [".".join([*origin, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "subtuning_hf" and len(pieces) > 1:
                # `from subtuning_hf import SubTuningConfig`: a lazy public name counts as its home.
                home = subtuning_hf._HOME.get(pieces[1])
                found.append((node.lineno, home.split(".")[1] if home else pieces[1]))
    return found


def test_every_part_has_a_floor():
    assert parts() <= set(FLOORS), "a new part of the package needs a floor here and in CONTRIBUTING.md"


def test_imports_point_down_and_siblings_do_not_meet():
    wrong, seen = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for line, part in imports_of(path):
            seen += 1
            if part == own or part in ("_version", "errors", "__version__") or (own, part) == ("__init__", "_register"):
                continue
            if FLOORS[part] >= FLOORS[own]:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} ({own}, floor {FLOORS[own]}) imports {part}")
    assert seen > 10
    assert not wrong, "\n".join(wrong)


def test_search_is_standard_library_only():
    for path in sorted((PACKAGE / "search").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = set() if node.level else {(node.module or "").split(".")[0]}
            else:
                continue
            foreign = {root for root in roots if root not in sys.stdlib_module_names} - {"subtuning_hf"}
            if foreign == {"pandas"}:  # SearchResult.to_pandas, lazily
                assert node.col_offset > 0
                continue
            assert not foreign, f"{path}:{node.lineno} imports {foreign}"


# --- what importing loads --------------------------------------------------------------------
def test_import_loads_nothing_heavy():
    done = run_python("import sys, json, subtuning_hf; print(json.dumps(sorted(sys.modules)))")
    loaded = set(json.loads(done.stdout))
    assert "subtuning_hf._register" in loaded
    assert not loaded & set(HEAVY)


def test_public_names_agree():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == subtuning_hf._HOME
    assert sorted(subtuning_hf.__all__) == sorted([*typed, "__version__"])
    assert set(subtuning_hf.__all__) <= set(dir(subtuning_hf))


@pytest.mark.parametrize("name", subtuning_hf.__all__)
def test_public_names_load(name):
    value = getattr(subtuning_hf, name)
    assert getattr(value, "__name__", name) == name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="GreedyTrainer"):
        _ = subtuning_hf.GreedyTrainer


def test_help_is_quick_and_loads_nothing_heavy():
    code = """
        import sys, time
        start = time.process_time()
        from subtuning_hf.cli.main import main
        try:
            main(["--help"])
        except SystemExit as stop:
            assert not stop.code
        print("SECONDS", time.process_time() - start)
        print("LOADED", sorted({name.split(".")[0] for name in sys.modules}))
    """
    output = run_python(code).stdout
    assert "usage: subtuning" in output
    seconds = float(output.split("SECONDS")[1].split()[0])
    assert seconds < 0.5
    loaded = output.split("LOADED")[1]
    assert not [name for name in HEAVY if repr(name) in loaded]


# --- registration with PEFT ------------------------------------------------------------------
REGISTERED = """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as configs, PEFT_TYPE_TO_TUNER_MAPPING as tuners
    assert "SUBTUNING" in configs and "SUBTUNING" in tuners
    assert not any(getattr(finder, "is_subtuning_hook", False) for finder in sys.meta_path)
    assert type(peft.__loader__).__name__ == "SourceFileLoader", peft.__loader__
    assert peft.__spec__.loader is peft.__loader__
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import peft, subtuning_hf",
        "import subtuning_hf, peft",
        "import subtuning_hf; import peft.tuners.lora; import peft",
        "import subtuning_hf; from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING; import peft",
        "import subtuning_hf.tuner, peft",
        "import transformers, subtuning_hf; from transformers.integrations import peft as _; import peft",
    ],
)
def test_registered_in_every_import_order(imports):
    run_python("import sys\n" + imports + "\n" + textwrap.dedent(REGISTERED))


def test_import_alone_is_enough_to_load_an_adapter(tmp_path):
    code = """
        import sys
        import torch
        {imports}
        from transformers import ResNetConfig, ResNetForImageClassification
        torch.manual_seed(0)
        shape = dict(num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
        config = ResNetConfig(**shape, num_labels=3)
        base = ResNetForImageClassification(config).eval()
        x = torch.ones(2, 1, 32, 32)
        {body}
    """
    save = """
        model = get_peft_model(base, subtuning_hf.SubTuningConfig(blocks=[1])).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad: p.add_(0.1)
        model.save_pretrained(FOLDER); torch.save(model(x).logits, FOLDER + "/logits.pt")
    """
    load = """
        assert "subtuning_hf.tuner" in sys.modules
        model = PeftModel.from_pretrained(base, FOLDER).eval()
        assert torch.equal(model(x).logits, torch.load(FOLDER + "/logits.pt"))
    """
    indent = textwrap.indent
    for imports, body in (
        ("import subtuning_hf; from peft import get_peft_model", save),
        ("import subtuning_hf; from peft import PeftModel", load),
    ):
        body = indent(textwrap.dedent(body.replace("FOLDER", repr(str(tmp_path)))), " " * 8).strip()
        run_python(code.format(imports=imports, body=body))


def test_hook_survives_reload_threads_and_find_spec():
    run_python(
        """
        import importlib, importlib.util, sys, threading
        import subtuning_hf, subtuning_hf._register
        for _ in range(3):
            importlib.reload(subtuning_hf._register); importlib.reload(subtuning_hf)
        assert sum(getattr(finder, "is_subtuning_hook", False) for finder in sys.meta_path) == 1
        spec = importlib.util.find_spec("peft")
        assert spec is not None and spec.origin.endswith("__init__.py") and spec.submodule_search_locations
        assert spec.loader.get_source("peft").strip()  # the wrapped loader still answers as the loader does
        assert "peft" not in sys.modules and "torch" not in sys.modules
        errors = []
        def load():
            try:
                from peft import PeftModel
                from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=load) for _ in range(8)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        assert not errors, errors
        import peft
        importlib.reload(peft); importlib.reload(subtuning_hf)
        """
        + REGISTERED.replace("\n    ", "\n        ")
    )


def test_error_of_a_broken_peft_is_its_own(tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("raise RuntimeError('peft is broken here')\n")
    done = run_python(
        f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        import subtuning_hf
        for _ in range(2):
            try:
                import peft
            except RuntimeError as error:
                print(error)
        assert "peft" not in sys.modules and "torch" not in sys.modules
        """
    )
    assert done.stdout.split("\n")[:2] == ["peft is broken here"] * 2


def test_a_failing_registration_does_not_break_peft(tmp_path):
    (tmp_path / "peft.py").write_text("answer = 42\n")
    done = run_python(
        f"""
        import sys, warnings; sys.path.insert(0, {str(tmp_path)!r})
        import subtuning_hf._register
        def fail(): raise ImportError("too old")
        subtuning_hf._register.register = fail
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import peft
        assert peft.answer == 42
        print(*[w.message for w in caught if w.category is RuntimeWarning])
        """
    )
    assert "could not register" in done.stdout and "too old" in done.stdout


def test_missing_peft_is_an_ordinary_import_error():
    done = run_python(
        """
        import sys, subtuning_hf._register as r
        r.HOST = "no_such_package_here"
        r.with_peft()
        import no_such_package_here
        """,
        check=False,
    )
    assert done.stderr.strip().endswith("ModuleNotFoundError: No module named 'no_such_package_here'")


def test_import_is_quick():
    start = time.perf_counter()
    run_python("import subtuning_hf")
    assert time.perf_counter() - start < 5  # a process start on a busy machine included; torch alone takes longer
