"""What every test of support does: search, train, and make the same trainings by a plain Trainer to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

from subtuning_hf import SubTuningConfig
from subtuning_hf.search.journal import read_study
from toys import NUM_LABELS, TOYS
from training.cases import Rows, accuracy, make_args, make_model, make_trainer

# Fields of ours that a plain TrainingArguments does not have, and what the trainings here share.
SEARCH = {"direction": "list", "candidates": [[1]]}
PREDICT = {"strategy": "short-profile", "search_budget": 6.0, "num_train_epochs": 4, "prefix_cache": False}
SHARED = {
    "num_train_epochs": 1, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 16, "learning_rate": 1e-2,
    "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no",
}  # fmt: skip


@dataclass
class Case:
    """
    One thing to support.

    Args:
        args (`dict`): Training arguments that ask for it.
        kwargs (`dict`): Arguments of the trainer's constructor.
        model (`Callable`), rows (`Callable`): Make the base model and the training rows anew.
    """

    args: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    model: Callable[[], torch.nn.Module] = make_model
    rows: Callable[[], Any] = Rows

    def trainer(self, folder: Path, **more: Any) -> Any:
        """A searching trainer."""
        return make_trainer(
            folder, model=self.model(), train_dataset=self.rows(), args={**self.args, **more}, **self.kwargs
        )

    def plain(self, folder: Path, blocks: tuple | list, train: Any) -> Trainer:
        """A plain Trainer of an adapter, trained."""
        set_seed(42)
        model = get_peft_model(self.model(), SubTuningConfig(blocks=list(blocks)))
        args = TrainingArguments(output_dir=str(folder), **{**SHARED, **self.args})
        trainer = Trainer(
            model=model, args=args, train_dataset=train, **{"compute_metrics": accuracy, **self.kwargs}
        )
        trainer.train()
        trainer.args.dataloader_drop_last = False  # a score is of all rows
        return trainer


class Some(torch.utils.data.Dataset):
    """Some rows of a data set."""

    def __init__(self, rows: Any, which: Any) -> None:
        self.rows, self.which = rows, list(which)

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> Any:
        return self.rows[self.which[index]]


def tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What an adapter owns."""
    return {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}


def searched(case: Case, folder: Path, **more: Any) -> tuple[dict[tuple, dict[str, float]], Any]:
    """Metrics of an exact search by candidate and fold, and its folds."""
    trainer = case.trainer(folder, **{**SEARCH, **more})
    trainer.search()
    known = read_study(folder / "journal")
    return {(each.candidate.blocks, each.fold): dict(each.metrics) for each in known.evaluations}, trainer


def compare(case: Case, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """
    Search exactly and train, and check that both are what a plain Trainer does with the same arguments.

    Returns: `tuple`: loss of the candidate on the first fold, and tensors of the final adapter.
    """
    metrics, trainer = searched(case, folder / "search")
    (blocks,) = {blocks for blocks, _ in metrics if blocks}
    fold = trainer._prepared.folds[0]
    twin = case.plain(folder / "twin", blocks, Some(case.rows(), fold.train))
    expected = twin.evaluate(Some(case.rows(), fold.validation))
    found = metrics[blocks, 0]
    assert found["eval_loss"] == _near(expected["eval_loss"])
    assert found.keys() <= expected.keys()

    trainer.train(blocks=[1])
    twin = case.plain(folder / "final", blocks, case.rows())
    ours, theirs = tensors_of(trainer.model), tensors_of(twin.model)
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    return found["eval_loss"], ours


def _near(value: float) -> Any:
    return pytest.approx(value, rel=2e-4, abs=2e-5)


def predicted(case: Case, folder: Path, **more: Any) -> Any:
    """The result of a search that predicts."""
    result = case.trainer(folder, **{**PREDICT, **more}).search()
    assert result.proposal is not None and result.proposal.planned <= PREDICT["search_budget"]
    assert len(result.proposal.predictions) >= 3 and result.cost.num_evaluations >= 2
    return result


class Texts(torch.utils.data.Dataset):
    """
    Rows of token ids of different lengths.

    Args:
        label (`Callable[[int, list[int]], Any]`): Number of a row and its ids, to its labels.
        even (`bool`): Whether all rows have one length.
    """

    def __init__(self, label: Callable[[int, list[int]], Any], count: int = 24, even: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = [9 if even else 4 + row % 6 for row in range(count)]
        self.ids = [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]
        self.label = label

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": self.label(index, ids)}


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A collator of one's own: pads ids with 0, and labels of tokens with -100."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if all(isinstance(row[name], list) and len(row[name]) == len(row["input_ids"]) for row in rows):
            values = [value + [fill[name]] * (longest - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


def toy(name: str, **config: Any) -> torch.nn.Module:
    """A tiny model, with other values in its config."""
    model = TOYS[name].build()
    for key, value in config.items():
        setattr(model.config, key, value)
    return model


__all__ = ["NUM_LABELS", "Case", "Rows", "Some", "Texts", "compare", "make_args", "pad", "predicted", "searched", "toy"]
