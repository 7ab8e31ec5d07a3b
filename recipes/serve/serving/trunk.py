"""
The model of all tasks, which tasks there are, and the answers to a batch of questions.

Knows models, adapters and inputs; does not know queues or HTTP.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor

from subtuning_hf import MultiTaskModel
from subtuning_hf.errors import SubTuningError
from subtuning_hf.multitask.adapters import block_names, load_base

from .errors import ServeError
from .inputs import Inputs, load_inputs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """
    A task.

    Args:
        key (`str`): Its name in the model, another one for each adapter that the task has had.
        adapter (`str`): Where that came from.
        labels (`tuple[str, ...]`): Names of its classes.
        several (`bool`): Whether an input may have several labels.
        modules (`tuple[str, ...]`): What it has of its own.
    """

    key: str
    adapter: str
    labels: tuple[str, ...]
    several: bool
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """
    An input, and what is asked of it.

    Args:
        row (`Mapping[str, Any]`): The input, prepared.
        tasks (`tuple[str, ...]` or `None`): Who answers; `None` for all that there are when it is answered.
    """

    row: Mapping[str, Any]
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """
    The answer of one task for one input.

    Args:
        labels (`tuple[str, ...]`): Names of the classes.
        probabilities (`tuple[float, ...]`): Of each.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


Answers = dict[str, Answer]


class Trunk:
    """
    Tasks that come and go on one base model. One thread answers; others may add and remove tasks meanwhile.

    Args:
        base (`torch.nn.Module`): The base model, on its device.
        name (`str`), revision (`str`, *optional*): Where it came from.
        adapter (`Path`): Folder of the first adapter, which may say how inputs are made.
    """

    def __init__(self, base: Any, name: str, revision: str | None, adapter: Path) -> None:
        self.base, self.name, self.revision = base, name, revision
        inputs = load_inputs(base, name, revision, adapter)
        if inputs is None:
            raise ServeError(f"Neither '{name}' nor '{adapter}' has a tokenizer or an image processor. Save one there.")
        self.inputs: Inputs = inputs
        self._signature = inputs.signature()
        self.model = MultiTaskModel(base, block_names(base, [adapter]))
        self.tasks: Mapping[str, Task] = {}  # replaced, never changed, so that whoever reads it sees one state
        self._numbers = count()
        self._adding = threading.Lock()  # one change at a time
        self._asked = threading.Lock()  # what a pass is asked for stays until it is done

    @classmethod
    def load(cls, name: str, adapters: Mapping[str, Path], device: str, revision: str | None = None) -> Trunk:
        """
        A base with its adapters.

        Args:
            name (`str`): Folder or Hub name of the base.
            adapters (`Mapping[str, Path]`): Folders by task, at least one.
            device (`str`): Where to run.
            revision (`str`, *optional*): Of the base.

        Raises: [`ServeError`]: If there is no adapter, which says what class of model the base is.
        """
        if not adapters:
            raise ServeError("Expected at least one adapter, found none. Name a folder of them with --adapters.")
        first = next(iter(adapters.values()))
        base = load_base(name, PeftConfig.from_pretrained(str(first)), revision=revision)
        trunk = cls(base.to(device).eval(), name, revision, first)
        trunk._add_all({task: (folder, str(folder)) for task, folder in adapters.items()})
        return trunk

    # --- tasks --------------------------------------------------------------------------------
    def add(self, name: str, adapter: Path, source: str | None = None) -> bool:
        """
        Add a task, or give it another adapter. Until all is ready, questions are answered as before.

        Args:
            name (`str`): Of the task.
            adapter (`Path`): Folder.
            source (`str`, *optional*): How to call it.

        Returns: `bool`: Whether the task is a new one.
        Raises: [`ServeError`]: If the adapter is none for this base or not for such inputs.
        """
        with self._adding:
            return self._add_all({name: (adapter, source or str(adapter))})

    def _add_all(self, adapters: Mapping[str, tuple[Path, str]]) -> bool:
        added: dict[str, Task] = {}
        try:
            for name, (folder, source) in adapters.items():
                added[name] = self._loaded(name, folder, source)
            self.model.check(**self._batch(self.inputs.examples()))  # here, so that no question waits for it
        except BaseException:
            for task in added.values():
                self.model.remove_task(task.key)
            raise
        gone = [self.tasks[name] for name in added if name in self.tasks]
        self._publish({**self.tasks, **added}, gone)
        return not gone

    def _loaded(self, name: str, adapter: Path, source: str) -> Task:
        """An adapter, in the model but not known to questions yet."""
        key = f"{name}#{next(self._numbers)}"
        try:
            labels, several = self._tried(adapter)
            self.model.add_task(key, adapter)
        except ServeError:
            raise
        except (SubTuningError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            # of whatever reads foreign files
            logger.warning("'%s' was refused", adapter, exc_info=True)
            raise ServeError(f"The adapter '{adapter.name}' cannot be used: {_first_line(error)}", 422) from error
        return Task(key, source, labels, several, tuple(self.model.own_modules(key)))

    def remove(self, name: str) -> None:
        """
        Remove a task.

        Args:
            name (`str`): Of the task.

        Raises: [`ServeError`]: If there is none of this name.
        """
        with self._adding:
            if name not in self.tasks:
                raise self._unknown([name])
            self._publish({task: one for task, one in self.tasks.items() if task != name}, [self.tasks[name]])

    def _publish(self, tasks: Mapping[str, Task], gone: Sequence[Task]) -> None:
        with self._asked:
            self.tasks = tasks
            for task in gone:
                self.model.remove_task(task.key)

    def _tried(self, adapter: Path) -> tuple[tuple[str, ...], bool]:
        """
        Labels of an adapter, after it has answered by itself: a broken one must not meet the others.

        Raises: [`ServeError`]: If it cannot be served here.
        """
        theirs = load_inputs(self.base, self.name, self.revision, adapter)
        if theirs is not None and theirs.signature() != self._signature:
            raise ServeError(
                f"'{adapter.name}' wants its inputs made in another way than the tasks here: another size, length, "
                "tokenizer or normalisation. Serve it in a process of its own.",
                422,
            )
        trial = MultiTaskModel.from_adapters(self.base, {"trial": adapter}, blocks=self.model.blocks)
        logits = _logits(trial(**self._batch(self.inputs.examples()))["trial"])
        config = trial.config_of("trial")
        if logits.ndim != 2 or logits.shape[1] < 2 or getattr(config, "problem_type", None) == "regression":
            raise ServeError(f"'{adapter.name}' gives {tuple(logits.shape)} for 3 inputs: expected a classifier.", 422)
        if not bool(torch.isfinite(logits).all()):
            raise ServeError(f"'{adapter.name}' gives answers that are not finite. Its weights are damaged.", 422)
        names = getattr(config, "id2label", None) or {}
        labels = tuple(str(names.get(index, f"LABEL_{index}")) for index in range(logits.shape[1]))
        return labels, getattr(config, "problem_type", None) == "multi_label_classification"

    # --- answers ------------------------------------------------------------------------------
    def answer(self, questions: Sequence[Question]) -> list[Answers | Exception]:
        """
        Answer questions together, each only by the tasks that it asks.

        Args:
            questions (`Sequence[Question]`): Prepared by this trunk's inputs.

        Returns: `list[Answers | Exception]`: In order; a question that cannot be answered takes none with it.
        """
        results: list[Answers | Exception] = [{} for _ in questions]
        with self._asked:
            tasks, groups = self.tasks, dict[Any, list[int]]()
            for number, question in enumerate(questions):
                try:
                    self.named(question.tasks, tasks)
                except ServeError as error:  # removed while the question waited
                    results[number] = error
                else:
                    groups.setdefault(self.inputs.group(question.row), []).append(number)
            for numbers in groups.values():
                found = self._safely([questions[number] for number in numbers], tasks)
                for number, result in zip(numbers, found, strict=True):
                    results[number] = result
        return results

    def named(self, asked: Sequence[str] | None, tasks: Mapping[str, Task] | None = None) -> tuple[str, ...]:
        """
        The tasks that a question asks.

        Args:
            asked (`Sequence[str]`, *optional*): As the question has them; by default all.
            tasks (`Mapping[str, Task]`, *optional*): Those there are; by default now.

        Raises: [`ServeError`]: If there is one that is not there, or none at all.
        """
        tasks = self.tasks if tasks is None else tasks
        unknown = [name for name in asked or () if name not in tasks]
        if unknown or not tasks:
            raise self._unknown(unknown)
        return tuple(tasks) if asked is None else tuple(dict.fromkeys(asked))

    def _unknown(self, names: Sequence[str]) -> ServeError:
        here = ", ".join(self.tasks) or "none; add one with PUT /tasks/NAME"
        wrong = ", ".join(repr(name[:80]) for name in names[:5])
        return ServeError(f"No such task: {wrong}. There are: {here}." if names else f"There are tasks: {here}.", 404)

    def _safely(self, questions: Sequence[Question], tasks: Mapping[str, Task]) -> Sequence[Answers | Exception]:
        """A batch; if it fails, one by one, so that only those fail that must."""
        try:
            return self._run(questions, tasks)
        except Exception as error:
            logger.exception("A pass with %d inputs failed", len(questions))
            if len(questions) > 1:
                return [result for one in questions for result in self._safely([one], tasks)]
            return [ServeError(f"The model cannot answer this input: {_first_line(error)}", 500)]

    def _run(self, questions: Sequence[Question], tasks: Mapping[str, Task]) -> list[Answers | Exception]:
        asked = [self.named(question.tasks, tasks) for question in questions]
        # Rows with the same tasks lie side by side: what a module takes of the stack is then a slice.
        order = sorted(range(len(questions)), key=lambda number: asked[number])
        rows: dict[str, list[int]] = {}
        for place, number in enumerate(order):
            for name in asked[number]:
                rows.setdefault(name, []).append(place)
        wanted = {name: rows[name] for name in tasks if name in rows}
        inputs = self._batch([questions[number].row for number in order])
        outputs = self.model(**inputs, rows={tasks[name].key: places for name, places in wanted.items()})
        results: list[Answers | Exception] = [{} for _ in questions]
        for name, places in wanted.items():
            task = tasks[name]
            shares = _probabilities(_logits(outputs[task.key]), task.several)  # (rows of the task, labels)
            for place, share in zip(places, shares, strict=True):
                _enter(results, order[place], name, Answer(task.labels, tuple(share)))
        return results

    def _batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        device = next(self.base.parameters()).device
        return {name: value.to(device) for name, value in self.inputs.batch(rows).items()}


def _enter(results: list[Answers | Exception], number: int, name: str, answer: Answer) -> None:
    result = results[number]
    if isinstance(result, Exception):
        return
    if all(0.0 <= share <= 1.0 for share in answer.probabilities):
        result[name] = answer
    else:  # NaN
        results[number] = ServeError(f"The answer of '{name}' for this input is not finite.", 500)


def _logits(output: Any) -> Tensor:
    logits = output["logits"] if isinstance(output, Mapping) else output
    return logits if isinstance(logits, Tensor) else logits[0]  # of models that return more than these


def _probabilities(logits: Tensor, several: bool) -> list[list[float]]:
    logits = logits.float()
    return (logits.sigmoid() if several else logits.softmax(-1)).cpu().tolist()


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError) and not isinstance(error, SubTuningError):  # its message is the key alone
        return f"{str(error)[:300]} is unknown here, or missing"
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
