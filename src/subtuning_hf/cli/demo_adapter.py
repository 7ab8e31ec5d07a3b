"""The demo's adapter: saved, and loaded again in a process that knows nothing of this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from ..compare import Trials
from ..errors import AdapterMismatchError
from ..training import GreedySubTuningTrainer
from . import demo_model
from .demo import Demo, headline, percent, say


def save_and_check(demo: Demo, trainer: GreedySubTuningTrainer, trials: Trials, rows: list[dict[str, Any]]) -> None:
    """
    Train the winner by the search's own trainer, save the adapter, load it in a new process, compare accuracies.

    Raises: [`AdapterMismatchError`]: If the loaded adapter does not give the same accuracy.
    """
    headline(7, "The adapter: saved, and loaded in a new process")
    adapter, base = demo.folder / "adapter", demo.folder / "base"
    base_model: Any = demo.task.model
    base_model.save_pretrained(base)  # before train(), which wraps it
    demo.data.test.save_to_disk(demo.folder / "test")
    trainer.args.learning_rate = trials.best["learning_rate"]  # as the folds chose for this selection
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    trainer.train()
    here = trainer.evaluate(demo.data.test)["eval_accuracy"]
    trainer.save_model(str(adapter))
    size = (adapter / "adapter_model.safetensors").stat().st_size
    whole = (base / "model.safetensors").stat().st_size
    command = [sys.executable, "-m", "subtuning_hf.cli", "demo", "--check-adapter", str(demo.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AdapterMismatchError(f"The new process could not load the adapter:\n{done.stderr.strip()[-2000:]}")
    there = json.loads(done.stdout)["accuracy"]
    say(f"   {adapter}: {size / 1024:,.0f} KiB beside {whole / 1024:,.0f} KiB of the base")
    say(f"   accuracy on the test digits: {percent(here)} here, {percent(there)} in the new process")
    if abs(here - there) > 1e-12:
        raise AdapterMismatchError(
            f"The adapter gives {here} in this process and {there} in a new one. This is a defect: please report it "
            f"with the folder '{demo.folder}'."
        )
    say("\n   import subtuning_hf")
    say("   base = AutoModelForImageClassification.from_pretrained(" + repr(str(base)) + ")")
    say("   model = PeftModel.from_pretrained(base, " + repr(str(adapter)) + ")")


def accuracy_of_saved(folder: Path) -> dict[str, float]:
    """Load the base, the adapter and the test digits from a demo's folder, and score them as a user would."""
    from datasets import load_from_disk
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    base = AutoModelForImageClassification.from_pretrained(folder / "base")
    kind = "vit" if base.config.model_type == "vit" else "resnet"
    model = PeftModel.from_pretrained(base, folder / "adapter")
    test = load_from_disk(str(folder / "test"))
    return {"accuracy": demo_model.accuracy(model, test, demo_model.MODELS[kind])}
