"""
The search as methods of a Trainer: choose, profile, repeat.

Knows the study and the team; the final training, and everything else that a Trainer does, is in `trainer.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from ..blocks import resolve_blocks
from ..errors import ArgumentsError, DataError
from ..hub.starting import search_start
from ..search import space
from ..search.journal import Study as Records
from ..search.journal import read_study
from ..search.origin import SearchStart
from ..search.profile import Profile, profile_of
from ..search.records import Candidate, FinalRun, SearchSpec, Unit
from ..search.result import SearchResult
from ..search.space import HEAD_ONLY, in_forward_order, units_of
from .arguments import GreedySubTuningArguments
from .checks import check_plain
from .data import check_datasets, check_map_style, is_stream, read_labels, view
from .dry_run import SearchPlan, plan_search
from .fingerprint import fingerprint_dataset
from .following import FollowingMixin
from .guard import Snapshot
from .preflight import check_writable
from .prepare import Prepared, journal_folder, prepare, search_spec
from .recipe import Recipe
from .reporting import StudyReporter
from .study import Study
from .team import Solo, Team, make_team
from .world import alone, check_whole, set_threads

if TYPE_CHECKING:
    from transformers import Trainer

    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)


class SearchMixin(FollowingMixin, _Base):
    """What `GreedySubTuningTrainer` adds to a Trainer before the final training."""

    args: GreedySubTuningArguments
    base_model: torch.nn.Module
    result: SearchResult | None
    _recipe: Recipe
    _prepared: Prepared | None
    _untouched: Snapshot | None
    _team: Solo | Team | None

    def search(self, start_from: str | os.PathLike[str] | None = None) -> SearchResult | SearchPlan:
        """
        Choose the blocks, by default one more in each round until none is worth adding.

        Finished evaluations are in the journal under `output_dir`; a search that was interrupted, or that has been
        finished before, continues from there and repeats nothing. Under several processes each trains candidates of
        its own; the result is the same for any number of them, bit for bit on CPU at equal threads.

        Args:
            start_from (`str` or `os.PathLike`, *optional*):
                Folder or Hub name of an adapter whose blocks are tried first; by default `args.start_from`, which says
                what that means.

        Returns: [`SearchResult`], also kept in `result`; with `args.dry_run` a [`SearchPlan`], and nothing is trained.
        Raises:
            [`StudyMismatchError`]: If the journal belongs to another study.
            [`NonFiniteScoreError`], [`MetricNotFoundError`], [`DataError`], [`FoldError`]: Unusable data or settings.
            [`AdapterFileError`], [`AdapterMismatchError`]: If `start_from` is no adapter, or one of another base.
            [`PeerFailedError`], [`PeerLostError`]: If another process failed in a way this one cannot repeat, or ended.
        """
        with self._searching() as (prepared, team):
            start = self._start(start_from, prepared, team)
            asked = search_spec(self.args, self.base_model, prepared.spec, start)
            if self.args.dry_run:
                return self._plan(prepared, asked, team)
            with self._study(prepared, team) as study:
                state = study.run(asked)
                self.result = SearchResult.from_state(
                    study.spec, state, study.evaluations, study.proposal_of(asked), asked
                )
                if study.reporter is not None:
                    study.reporter.ladder(self.result.to_rows())
        self._say(self.result.table())
        return self.result

    def profile(self, window: int = 1, pairs: bool = False, repeats: int = 1) -> Profile | SearchPlan:
        """
        Score every block alone: the finetuning profile. Or every run of consecutive blocks, or every pair.

        The profile of blocks is the first round of a search: whatever the one has evaluated, the other need not.

        Args:
            window (`int`, *optional*, defaults to 1): Consecutive blocks that are trained together.
            pairs (`bool`, *optional*, defaults to `False`): Train all pairs of blocks, neighbours or not.
            repeats (`int`, *optional*, defaults to 1):
                Trainings of each candidate on each fold, with the seeds `seed`, `seed + 1` ... A search uses the first.

        Returns: [`Profile`]; with `args.dry_run` a [`SearchPlan`], and nothing is trained.
        Raises: As [`search`]; [`ArgumentsError`]: If a window is larger than the model, or given with `pairs`.
        """
        if pairs and window != 1:
            raise ArgumentsError(f"`pairs` and `window={window}` ask for different candidates. Give one of the two.")
        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            raise ArgumentsError(f"`repeats` must be a whole number of 1 or more, found {repeats!r}.")
        with self._searching() as (prepared, team):
            names = [block.name for block in prepared.spec.blocks]
            wanted = space.pairs(names) if pairs else space.windows(names, window)
            units = units_of((HEAD_ONLY, *wanted), prepared.spec.num_folds, repeats)
            if self.args.dry_run:
                return self._plan(prepared, units, team)
            with self._study(prepared, team) as study:
                study.evaluate(units)
                return profile_of(study.spec, study.evaluations, wanted)

    def repeat(
        self, dataset: Any = None, num_repeats: int = 5, blocks: Sequence[str | int] | None = None
    ) -> list[FinalRun]:
        """
        Train the chosen blocks on the whole training set several times, with one seed after another, and score them.

        Tells how much of a score is luck. The journal keeps every run, so a stopped call goes on where it was; under
        several processes each trains with seeds of its own. `model` stays as it is.

        Args:
            dataset (*optional*): Rows to score, none of which chose or trained anything; by default `eval_dataset`.
            num_repeats (`int`, *optional*, defaults to 5): Trainings, with the seeds `seed`, `seed + 1` ...
            blocks (`Sequence[str | int]`, *optional*):
                What to train, as in `train`; by default what `search()` chose, run first where it has not been.

        Returns: `list[FinalRun]`: one for each seed; `summarise` of `search.finals` gives mean and spread.
        Raises: As [`search`]; [`DataError`]: Without rows to score, or if they are the training rows.
        """
        rows = self.eval_dataset if dataset is None else dataset
        if rows is None:
            raise DataError("`repeat` needs rows to score: give `dataset`, or an `eval_dataset` to the trainer.")
        if isinstance(num_repeats, bool) or not isinstance(num_repeats, int) or num_repeats < 1:
            raise ArgumentsError(f"`num_repeats` must be a whole number of 1 or more, found {num_repeats!r}.")
        recipe = self._recipe
        if not is_stream(rows):  # of which more is to be said
            check_map_style("eval_dataset" if dataset is None else "dataset", rows)
        check_datasets(recipe.train_dataset, rows, recipe.validation_dataset)
        chosen = self._chosen() if blocks is None else tuple(self._resolve(blocks))
        with self._searching() as (prepared, team):
            names = [block.name for block in prepared.spec.blocks]
            known = set(chosen) <= set(names)
            candidate = in_forward_order(names, chosen) if known else Candidate(tuple(chosen))
            fingerprint = team.together(
                lambda: fingerprint_dataset(rows, read_labels(rows, self.args.label_column), False)
            )
            if len(set(team.gather(fingerprint))) > 1:
                raise DataError("The processes were given different rows to score. Load the same in all of them.")
            seeds = range(self.args.seed, self.args.seed + num_repeats)
            with self._study(prepared, team) as study:
                return study.repeat(candidate, view(rows, None, recipe.eval_transform), fingerprint, seeds)

    def study(self) -> Records:
        """
        Everything in the journal.

        Returns: [`~search.journal.Study`]
        Raises: [`JournalError`]: If nothing was journalled yet, or the journal cannot be read.
        """
        return read_study(self.journal_folder)

    @property
    def journal_folder(self) -> Path:
        """`Path`: where every finished evaluation is kept."""
        return journal_folder(self.args)

    def _resolve(self, blocks: Sequence[str | int]) -> list[str]:
        return resolve_blocks(self.base_model, blocks, granularity=self.args.granularity)

    # --- around a search --------------------------------------------------------------------
    @contextmanager
    def _searching(self) -> Iterator[tuple[Prepared, Solo | Team]]:
        """A checked study, and the processes that share it; each of them is by itself meanwhile."""
        if self._team is None:
            self._team = make_team(self.args)
        team = self._team
        try:
            with self._threads(), alone(self.args):
                # Scores differ in their last bits with the number of threads: all take that of the first.
                set_threads(team.gather(torch.get_num_threads())[0])
                yield team.together(self._prepare), team
        except BaseException:
            team.end()
            self._team = None  # its failure is of the past
            raise

    def _start(
        self, source: str | os.PathLike[str] | None, prepared: Prepared, team: Solo | Team
    ) -> SearchStart | None:
        """What the search starts from, as the first process reads it."""
        source = self.args.start_from if source is None else source
        if source is None:
            return None
        read = partial(search_start, source, prepared.spec, token=self.args.hub_token)
        told = team.together(lambda: read().to_json() if team.is_main else None)
        start = SearchStart.from_json(team.gather(told)[0])
        self._say(f"Tried first, since '{start.source}' has them: {', '.join(start.blocks) or 'no block'}.")
        return start

    def _plan(self, prepared: Prepared, asked: SearchSpec | Sequence[Unit], team: Solo | Team) -> SearchPlan:
        """Measure in the first process, print there, and give the plan to all."""
        measured = team.together(
            lambda: plan_search(self._recipe, prepared, asked, team.size) if team.is_main else None
        )
        plan = team.gather(measured)[0]
        if team.is_main:
            print(plan)
        return plan

    def _study(self, prepared: Prepared, team: Solo | Team) -> Study:
        reporter = StudyReporter(self.args, self.callback_handler.callbacks) if team.is_main else None
        return Study(self._recipe, prepared, may_train=self._untouched is None, team=team, reporter=reporter)

    def _prepare(self) -> Prepared:
        if self._untouched is not None:
            if self._prepared is None:
                raise ArgumentsError(
                    "The model holds a trained adapter, which a search would remove. Search before train(), or make "
                    "a new trainer with the base model."
                )
            return self._prepared
        self._follow()
        check_plain(self.base_model)
        check_writable(self.args.folder)
        check_whole(self.base_model)
        self._recipe.args = self.args
        self._prepared = prepare(self._recipe)
        return self._prepared

    def _chosen(self) -> tuple[str, ...]:
        if self.args.dry_run:
            raise ArgumentsError("`dry_run=True` trains nothing. Call search() for the plan, or train(blocks=[...]).")
        if self.result is None:
            self.search()
        assert self.result is not None
        return tuple(self.result.blocks)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self.args.num_threads is not None:
            set_threads(self.args.num_threads)
        try:
            yield
        finally:
            set_threads(before)

    def _say(self, text: str) -> None:
        if not self.is_world_process_zero():
            return
        if not self.args.disable_tqdm:
            print(text)
        else:
            logger.info(text)
