"""
A search as one run of the trackers that `report_to` names: each evaluation a point, the ladder a table.

Speaks through Trainer's own integration callbacks, so a run has the name, project and place that they give it, and the
final training goes on in it. Candidates report nothing. Knows finished records; a tracker that fails is left out, and
the search goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    WandbLogModel,
)
from transformers.utils import logging

from ..search.greedy import SearchState, score_of
from ..search.records import Evaluation

logger = logging.get_logger(__name__)

STEP = "search/evaluation"  # the horizontal axis: evaluations of the study so far
Rows = Sequence[Mapping[str, Any]]


class StudyReporter:
    """
    Shows a search in the trackers of a Trainer. Only the first process has one.

    Nothing is opened before the first evaluation. Runs are left open for the final training; every tracker ends its own
    when Python does.

    Args:
        args ([`~transformers.TrainingArguments`]): Arguments of the search, which trackers keep with the run.
        callbacks (`Iterable[TrainerCallback]`):
            The Trainer's callbacks; those that are reporting integrations of transformers are used.
    """

    def __init__(self, args: TrainingArguments, callbacks: Iterable[TrainerCallback]) -> None:
        self._trackers = [_tracker(args, callback) for callback in callbacks if _reports(callback)]
        self._begun = False

    def evaluation(self, evaluation: Evaluation, number: int, state: SearchState | None = None) -> None:
        """
        Show a finished evaluation.

        Args:
            evaluation ([`Evaluation`]): What was trained and scored.
            number (`int`): Evaluations of the study with this one: where the point stands.
            state ([`SearchState`], *optional*): Where the search stands with it; `None` for a profile.
        """
        values: dict[str, float] = {
            "search/score": evaluation.score,
            "search/seconds": evaluation.seconds,
            "search/fold": evaluation.fold,
            "search/blocks": len(evaluation.candidate.blocks),
            "search/trainable_parameters": evaluation.trainable_parameters,
            "search/budget": evaluation.budget,
        }
        if state is not None and state.rounds:
            values["search/round"] = state.rounds[-1].index
            best = _score_of_selection(state)
            if best is not None:
                values["search/best"] = best
        self._tell(lambda tracker: tracker.point(values, number))

    def ladder(self, rows: Rows) -> None:
        """
        Show a finished search as a table, where a tracker has none as one point for each step.

        Args:
            rows (`list[dict]`): As [`SearchResult.to_rows`] gives them.
        """
        if rows:
            self._tell(lambda tracker: tracker.table("search/ladder", rows))

    def close(self) -> None:
        """Hand the runs over to the final training."""
        if self._begun:
            self._tell(lambda tracker: tracker.end())
        self._begun = False

    def _tell(self, what: Callable[[_Tracker], None]) -> None:
        if not self._begun:
            self._begun = True
            self._tell(lambda tracker: tracker.begin())
        for tracker in list(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # a search that took hours must not end for the sake of a picture of it
                self._trackers.remove(tracker)
                logger.warning(
                    f"{type(tracker.callback).__name__} failed and shows no more of this search, which goes on: "
                    f"{type(error).__name__}: {error}"
                )


class _Tracker:
    """Any integration, by the events that Trainer sends it."""

    def __init__(self, args: TrainingArguments, callback: Any) -> None:
        self.args, self.callback = args, callback
        self.state = TrainerState(is_world_process_zero=True, is_local_process_zero=True)
        self.control = TrainerControl()

    def begin(self) -> None:
        initialized = getattr(self.callback, "_initialized", None)
        try:
            self.callback.on_train_begin(self.args, self.state, self.control)
        except BaseException:
            if initialized is not None:  # so that the final training finds it as if nobody had tried
                self.callback._initialized = initialized
            raise

    def point(self, values: Mapping[str, float], step: int) -> None:
        self.state.global_step = step
        self.callback.on_log(self.args, self.state, self.control, logs=dict(values))

    def table(self, name: str, rows: Rows) -> None:
        for place, row in enumerate(rows):
            values = {f"{name}/{key}": float(value) for key, value in row.items() if isinstance(value, int | float)}
            self.point(values, int(row.get("round", place)))

    def end(self) -> None:
        """The run stays open: most callbacks could not go on with one that they have ended."""


class _TensorBoard(_Tracker):
    def point(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.callback.tb_writer.add_scalar(name, value, step)
        self.callback.tb_writer.flush()

    def table(self, name: str, rows: Rows) -> None:
        self.callback.tb_writer.add_text(name, markdown(rows))
        self.callback.tb_writer.flush()

    def end(self) -> None:
        # The next training opens a file of its own in the same folder, which TensorBoard shows as the same run.
        self.callback.on_train_end(self.args, self.state, self.control)


class _Wandb(_Tracker):
    def begin(self) -> None:
        with self._without_model():
            super().begin()
        self._named: set[str] = set()
        self.callback._wandb.define_metric(STEP)

    @contextmanager
    def _without_model(self) -> Iterator[None]:
        """There is no adapter yet: watching and uploading a model are left to the final training."""
        watched, uploaded = os.environ.get("WANDB_WATCH"), self.callback._log_model
        os.environ["WANDB_WATCH"], self.callback._log_model = "false", WandbLogModel.FALSE
        try:
            yield
        finally:
            self.callback._log_model = uploaded
            os.environ.pop("WANDB_WATCH")
            if watched is not None:
                os.environ["WANDB_WATCH"] = watched

    def point(self, values: Mapping[str, float], step: int) -> None:
        # The callback binds all metrics to the steps of a training; only a full name comes before that rule.
        for name in (name for name in values if name not in self._named):
            self.callback._wandb.define_metric(name, step_metric=STEP)
        self._named |= values.keys()
        self.callback._wandb.log({**values, STEP: step})

    def table(self, name: str, rows: Rows) -> None:
        columns = list(rows[0])
        data = [[row[column] for column in columns] for row in rows]
        self.callback._wandb.log({name: self.callback._wandb.Table(columns=columns, data=data)})

    def end(self) -> None:
        # The callback finds the run open, goes on in it, and adds what it could not know: the model of the adapter.
        self.callback._initialized = False


class _Trackio(_Tracker):
    def point(self, values: Mapping[str, float], step: int) -> None:
        self.callback._trackio.log({**values, STEP: step})

    def table(self, name: str, rows: Rows) -> None:
        from pandas import DataFrame  # trackio needs it too; its tables take names of columns from a frame alone

        cells = [{key: "" if value is None else value for key, value in row.items()} for row in rows]
        self.callback._trackio.log({name: self.callback._trackio.Table(dataframe=DataFrame(cells))})


def markdown(rows: Rows) -> str:
    """
    Rows as a table in Markdown.

    Args:
        rows (`list[dict]`): All with the keys of the first.

    Returns: `str`
    """
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _reports(callback: Any) -> bool:
    """Whether a callback is one of transformers' integrations, and takes values."""
    kinds: tuple[type[TrainerCallback], ...] = tuple(set(INTEGRATION_TO_CALLBACK.values()))
    return isinstance(callback, kinds) and type(callback).on_log is not TrainerCallback.on_log


def _tracker(args: TrainingArguments, callback: Any) -> _Tracker:
    special = {TensorBoardCallback: _TensorBoard, WandbCallback: _Wandb, TrackioCallback: _Trackio}
    kind = next((ours for theirs, ours in special.items() if isinstance(callback, theirs)), _Tracker)
    return kind(args, callback)


def _score_of_selection(state: SearchState) -> float | None:
    """Score of what is chosen so far; `None` before the first decision."""
    for round_ in reversed(state.rounds):
        if round_.decision is not None and round_.decision.winner is not None:
            winner = round_.decision.winner
            # After predictions a winner may have had a share of the training only, or none at all.
            trained = round_.of(winner) or tuple(each for each in round_.evaluations if each.candidate == winner)
            return score_of(trained) if trained else None
    return None
