"""
What a stated number of augmentation views does to accuracy, against a new view at every reading.

    python benchmarks/views.py contrast-300 --bench BENCH --output-dir benchmarks/results/views/contrast-300

One selection is trained on all training rows with flips and shifts, with 1, 2, 4, ... views of each row and with
endless ones, several seeds each, and scored on test rows.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf import find_blocks

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import SETTINGS, SmallPixels, load
from truth import make_trainer


class Shifted(SmallPixels):
    """Flips and shifts by up to 3 pixels."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        out = super().__call__(batch)
        out["pixel_values"] = [self._drawn(pixels) for pixels in out["pixel_values"]]
        return out

    @staticmethod
    def _drawn(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.flip(2) if random.random() < 0.5 else pixels
        return pixels.roll((random.randint(-3, 3), random.randint(-3, 3)), (1, 2))


def main() -> None:
    """Measure one setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=[name for name, setting in SETTINGS.items() if not setting.is_text])
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--block", type=int, default=1, help="number of the tuned block")
    parser.add_argument("--views", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--epochs", type=int, help="default: the setting's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    setting = SETTINGS[options.setting]
    setting = replace(setting, epochs=options.epochs or setting.epochs)
    plain = load(setting, options.bench, 0)
    shifted = replace(plain, train_transform=Shifted(plain.model.config), _identity=[])
    block = find_blocks(plain.model)[options.block].name
    found: dict[str, Any] = {}
    variants = [("none", plain, None), *((str(count), shifted, count) for count in options.views)]
    for name, task, views in [*variants, ("endless", shifted, None)]:
        with tempfile.TemporaryDirectory(prefix="views-") as folder:
            trainer = make_trainer(setting, task, Path(folder), 0, augmentation_views=views)
            started = time.perf_counter()
            runs = trainer.repeat(task.test, num_repeats=options.seeds, blocks=[block])
            seconds = time.perf_counter() - started
        found[name] = {"test": [run.metrics["eval_accuracy"] for run in runs], "seconds": seconds}
        shown = [100 * value for value in found[name]["test"]]
        print(f"{name:8} {statistics.fmean(shown):5.1f} ± {statistics.stdev(shown):.1f} %  {seconds:.0f} s", flush=True)
    lines = [f"# Augmentation views: {setting.name}, {block}, {setting.epochs} epochs, {options.seeds} seeds\n", "```"]
    for name, one in found.items():
        shown = [100 * value for value in one["test"]]
        spread = f"{statistics.fmean(shown):5.1f} ± {statistics.stdev(shown):.1f} %"
        lines.append(f"{name:8} {spread}  {one['seconds']:.0f} s")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "views.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (options.output_dir / "views.md").write_text("\n".join([*lines, "```"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
