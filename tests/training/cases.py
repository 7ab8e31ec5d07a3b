"""Tiny models, data and trainers for the tests of training: a search takes about a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification

CLASSES = 3
SIDE = 16
BLOCKS = (
    "resnet.encoder.stages.0.layers.0",
    "resnet.encoder.stages.1.layers.0",
    "resnet.encoder.stages.1.layers.1",
)


def make_model(seed: int = 0, head_seed: int = 0, labels: int = CLASSES, **settings: Any) -> torch.nn.Module:
    """A residual network of three blocks with BatchNorm; `head_seed` draws the head alone anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ResNetConfig(
            num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], layer_type="basic",
            num_labels=labels, **settings,
        )  # fmt: skip
        model = ResNetForImageClassification(config)
        torch.manual_seed(1000 + head_seed)
        torch.nn.init.normal_(model.classifier[1].weight, std=0.1)
    return model.eval()


def make_images(rows: int, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Stripes of three directions under noise: `(rows, 1, SIDE, SIDE)` and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = [row % CLASSES for row in range(rows)]
    grid = torch.arange(SIDE, dtype=torch.float32)
    waves = [torch.sin(grid)[None, :] * torch.ones(SIDE, 1), torch.sin(grid)[:, None] * torch.ones(1, SIDE)]
    waves.append(torch.sin(grid[:, None] + grid[None, :]))
    images = torch.stack([waves[label] for label in labels])[:, None]
    return images + torch.randn(images.shape, generator=generator), labels


class Rows(Dataset):
    """Rows as dicts of `pixel_values` and `labels`, with anything else given as a column."""

    def __init__(self, rows: int = 24, seed: int = 0, **columns: list) -> None:
        self.images, self.classes = make_images(rows, seed)
        self.columns = columns

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        extra = {name: values[index] for name, values in self.columns.items()}
        return {"pixel_values": self.images[index], "labels": self.classes[index], **extra}


class Untouchable(Dataset):
    """An eval_dataset that nothing may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"eval_dataset was touched: {name}")

    def __len__(self) -> int:
        raise AssertionError("eval_dataset was touched: len")

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("eval_dataset was touched: item")


def accuracy(prediction: Any) -> dict[str, float]:
    """Share of rows whose best logit is the label's."""
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def make_args(folder: Path | str, **changes: Any) -> Any:
    """Arguments of a search that is over in a second."""
    from subtuning_hf.training import GreedySubTuningArguments

    settings: dict[str, Any] = {
        "num_folds": 2,
        "strategy": "exact",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    if changes.get("strategy", "exact") == "exact":
        settings["min_gain"] = 0.0
    return GreedySubTuningArguments(output_dir=str(folder), **{**settings, **changes})


def make_trainer(
    folder: Path | str, model: Any = None, train_dataset: Any = None, args: Any = None, cls: Any = None, **kwargs: Any
) -> Any:
    """A trainer on tiny data; keyword arguments of the arguments go into `args={...}`."""
    from subtuning_hf.training import GreedySubTuningTrainer

    return (cls or GreedySubTuningTrainer)(
        model=make_model() if model is None else model,
        args=make_args(folder, **(args or {})),
        train_dataset=Rows() if train_dataset is None else train_dataset,
        **{"compute_metrics": accuracy, **kwargs},
    )


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """All that a search must leave alone, copied."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "names": [name for name, _ in model.named_modules()],
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grads": {name: p.grad is None for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
        },
        "config": model.config.to_dict() if hasattr(model, "config") else None,
        "attributes": set(model.__dict__),
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Equal bit for bit."""
    assert before["tensors"].keys() == after["tensors"].keys()
    for name, tensor in before["tensors"].items():
        assert tensor.dtype == after["tensors"][name].dtype and torch.equal(tensor, after["tensors"][name]), name
    for key in before.keys() - {"tensors"}:
        assert before[key] == after[key], key


def files_under(folder: Path) -> list[str]:
    """Relative paths of all files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def count_trainings(monkeypatch: Any) -> list[Callable]:
    """A list that grows by one with each training any Trainer starts."""
    from transformers import Trainer

    seen: list[Any] = []
    original = Trainer._inner_training_loop

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(self).__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_inner_training_loop", counted)
    return seen
