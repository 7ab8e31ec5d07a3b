"""
The loop that evaluates what is pending, in one process or in many.

Decisions come from `search` by replaying records; this module only does the work they ask for and appends what came
out. Knows the journal, the evaluator, the team and the progress bar; not the public trainer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..errors import ArgumentsError, JournalError, PeerFailedError, PeerLostError, SubTuningError
from ..search.greedy import SearchState, replay, speculate
from ..search.journal import Journal, find_study
from ..search.proposals import confirm
from ..search.proposed import ProposalRun
from ..search.records import Candidate, Decision, Evaluation, FinalRun, SearchSpec, Unit
from .cache import FOLDER as CACHE
from .cache import open_cache
from .evaluator import Evaluator, cheap_collections, remove_stale_scratch
from .heads import FILE_NAME, head_fingerprint, save_head, settle_head, share_head
from .prepare import Prepared
from .progress import StudyProgress
from .proposing import propose
from .recipe import Recipe
from .team import Solo, Team, describe, revive
from .uniting import Records, united, warn_of_environment


class Study:
    """
    A prepared study with its journal open. With several processes, all of them have one, and call the same methods.

    Args:
        recipe ([`Recipe`]): How candidates are trained.
        prepared ([`Prepared`]): What it is.
        may_train (`bool`, *optional*, defaults to `True`):
            Whether the base is free for candidates. If not, only what is recorded can be read.
        team ([`Team`], *optional*): The processes that share the work.
        reporter (*optional*): Is told of every evaluation; see `reporting`.
    """

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared,
        may_train: bool = True,
        team: Solo | Team | None = None,
        reporter: Any = None,
    ) -> None:
        self.recipe = recipe
        self.spec, self.folds, self.folder = prepared.spec, prepared.folds, prepared.folder
        self.may_train = may_train
        self.team = team or Solo()
        self.reporter = reporter
        self.evaluator = Evaluator(recipe, process=self.team.rank, watcher=self.team.watcher())
        self.evaluations: list[Evaluation] = []
        self.finals: list[FinalRun] = []
        self.decisions: list[Decision] = []
        self.searches: list[SearchSpec] = []
        self.proposals: list[ProposalRun] = []
        self.journal: Journal | None = None
        self.random_rows = prepared.random_rows
        self._cache_asked = False
        self._shown = False
        self._recorded_head = ""
        self._failures: dict[str, BaseException] = {}

    # --- opening ----------------------------------------------------------------------------
    def __enter__(self) -> Study:
        try:
            self.team.together(self._open)
            self._union()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal and of what was cached."""
        if self.evaluator.cache is not None:
            self.evaluator.cache.close(remove=self.team.is_local_main)
            self.evaluator.cache = None
        if self.journal is not None:
            self.journal.close()
            self.journal = None
        if self.reporter is not None:
            self.reporter.close()

    def _open(self) -> None:
        if self.may_train:
            self.journal = Journal.open(self.folder, self.spec, writer=f"rank-{self.team.rank:04d}")
        known = find_study(self.folder)
        if known is not None:
            self.evaluations, self.decisions = list(known.evaluations), list(known.decisions)
            self.searches, self.finals = list(known.searches), list(known.finals)
            self.proposals = list(known.proposals)
            if self.evaluations and self.team.is_main:
                warn_of_environment(self.folder, known.spec.environment, self.spec.environment)
            self._recorded_head = str(known.spec.environment.get("head", ""))

    def _union(self) -> None:
        """Processes on other machines may see another folder: what one knows, all know. All start from one head."""
        if self.may_train and self.team.is_local_main:
            remove_stale_scratch(self.recipe.args.folder)  # nobody else has the journal, or opening it had failed
        begun = bool(self.evaluations or self.finals)
        # The head of scores that are known, best from a process that kept its file; else that of the first.
        holds = self.team.gather((2 if (self.folder / FILE_NAME).exists() else 1) if begun else 0)
        sender = holds.index(max(holds))
        if self.may_train and max(holds):
            head = (self.recipe.model, self.folder, self._recorded_head)
            self.team.together(lambda: settle_head(*head) if self.team.rank == sender else None)
        if self.team.size > 1:
            self._share(sender)
        mark = head_fingerprint(self.recipe.model)
        if self.may_train and self.spec.environment.get("head") != mark:
            self.spec = replace(self.spec, environment={**self.spec.environment, "head": mark})
            assert self.journal is not None
            self.journal.spec = self.spec

    def _share(self, sender: int) -> None:
        mine = Records(self.evaluations, self.finals, self.proposals)
        self.evaluations, self.finals, self.proposals = united(self.team, self.spec, mine)
        if self.may_train:
            share_head(self.recipe.model, self.team, sender)

    # --- working ----------------------------------------------------------------------------
    def run(self, search: SearchSpec) -> SearchState:
        """
        Evaluate what a search asks for until it is finished.

        Args:
            search ([`SearchSpec`]): What is searched.

        Returns: [`SearchState`], finished.
        """
        if search.strategy != "exact" and self.proposal_of(search) is None:
            self._begin(1)
            self._propose(search)
        state = self._replay(search)
        if state.finished:
            self._record(search, state)
            return state
        self._begin(len(state.pending), search, state)
        with self._working(search.max_blocks) as progress:
            self._work(search, state, progress)
        return self._replay(search)

    def _replay(self, search: SearchSpec) -> SearchState:
        run = self.proposal_of(search)
        return replay(self.spec, search, self.evaluations) if run is None else confirm(run, self.evaluations)

    def proposal_of(self, search: SearchSpec) -> ProposalRun | None:
        """What was predicted for a search; `None` for an exact one, and before it was made."""
        return next((run for run in self.proposals if run.search == search), None)

    def _propose(self, search: SearchSpec) -> None:
        """Predict in the first process; the others wait for it, however long it takes."""
        made = None
        with self._working() as progress:
            progress.expect_proposal(search.strategy)
            if self.team.is_main:
                made = propose(self.recipe, self.spec, self.folds, search, self.evaluator.cache)
                self._append(made)
            self.team.meet()
            told = self.team.gather(None if made is None else made.to_json())[0]
        self.proposals.append(ProposalRun.from_json(told))

    @contextmanager
    def _working(self, max_blocks: int | None = 0) -> Iterator[StudyProgress]:
        """Around any shared work: its bar, the same end for all processes, and its errors in all of them."""
        progress = self._progress(max_blocks)
        try:
            with cheap_collections():
                yield progress
            self._settle()
        except BaseException as error:
            self.team.fail(error)
            raise
        finally:
            progress.close()

    def _work(self, search: SearchSpec, state: SearchState, progress: StudyProgress) -> None:
        progress.show(state)
        while not state.finished:
            unit = self._claim(state.pending)
            if unit is not None:
                self._evaluate(unit)
            elif (guess := self._guess(search, state)) is not None:
                self._try(guess)
            else:
                self.team.wait()
            if new := self._hear(progress):
                state = self._replay(search)
                self._record(search, state)
                self._report(new, state)
                progress.show(state)
            self._check_failures(state.pending)

    def _claim(self, units: Sequence[Unit]) -> Unit | None:
        """Something to evaluate that nobody has taken."""
        names = {_name(unit): unit for unit in units}
        taken = self.team.claim(names)
        return None if taken is None else names[taken]

    def _guess(self, search: SearchSpec, state: SearchState) -> Unit | None:
        """Something that may be needed soon."""
        if self.team.size == 1 or search.strategy != "exact":
            return None
        starting = all(part.rounds[-1].index == 0 for part in state.parts or (state,) if not part.finished)
        if not self.recipe.args.speculate and not starting:  # what follows a start is certain, and no guess
            return None
        return self._claim(speculate(self.spec, search, self.evaluations, state))

    def _evaluate(self, unit: Unit) -> None:
        evaluation = self.evaluator(unit, self.folds[unit.fold])
        self._append(evaluation)
        self.team.publish(json.dumps(evaluation.to_json()))

    def _try(self, unit: Unit) -> None:
        """Evaluate what nobody may need; if it fails, that is an error for those who do need it."""
        try:
            self._evaluate(unit)
        except SubTuningError as error:
            if isinstance(error, JournalError | PeerFailedError | PeerLostError) or getattr(error, "from_peer", False):
                raise
            self._failures[_name(unit)] = error
            self.team.publish(json.dumps({"failed": _name(unit), "error": describe(self.team.rank, error)}))

    def _check_failures(self, needed: Sequence[Unit]) -> None:
        for unit in needed if self._failures else ():
            if _name(unit) in self._failures:
                raise self._failures[_name(unit)]

    def evaluate(self, units: Sequence[Unit]) -> None:
        """
        Evaluate some units that no decision asks for, such as the repeats of a profile.

        Args:
            units (`Sequence[Unit]`): What to evaluate; what is known already is left out.
        """
        missing = self._missing(units)
        if not missing:
            return
        self._begin(len(missing))
        with self._working() as progress:
            progress.expect(missing)
            while missing:
                unit = self._claim(missing)
                if unit is None:
                    self.team.wait()
                else:
                    self._evaluate(unit)
                self._report(self._hear(progress), None)
                missing = self._missing(missing)

    def _missing(self, units: Iterable[Unit]) -> list[Unit]:
        known = {evaluation.unit for evaluation in self.evaluations}
        return [unit for unit in units if unit not in known]

    def repeat(self, candidate: Candidate, rows: Any, fingerprint: str, seeds: Sequence[int]) -> list[FinalRun]:
        """
        Train a selection on the whole training set, once for each seed.

        Args:
            candidate ([`Candidate`]): The selection.
            rows: Rows to score, seen by no training and no decision.
            fingerprint (`str`): Of these rows; runs scored on others are not counted.
            seeds (`Sequence[int]`): Seeds.

        Returns: `list[FinalRun]`: in the order of the seeds.
        """

        names = {f"final/{seed}": seed for seed in seeds}

        def known() -> dict[int, FinalRun]:
            mine = [f for f in self.finals if f.candidate == candidate and f.info.get("rows") == fingerprint]
            return {final.seed: final for final in reversed(mine)}  # of two of one seed the first counts

        def missing() -> list[str]:
            done = known()
            return [name for name, seed in names.items() if seed not in done]

        if missing():
            self._begin(len(missing()))
            with self._working() as progress:
                progress.expect_finals(len(missing()))
                while missing():
                    taken = self.team.claim(missing())
                    if taken is None:
                        self.team.wait()
                    else:
                        final = self.evaluator.final(candidate, rows, fingerprint, names[taken])
                        self._append(final)
                        self.team.publish(json.dumps({"final": final.to_json()}))
                    self._hear(progress)
        done = known()
        return [done[seed] for seed in seeds]

    # --- small steps ------------------------------------------------------------------------
    def _begin(self, count: int, search: SearchSpec | None = None, state: SearchState | None = None) -> None:
        """Before the first training: the journal is ours, and the head that all start from is kept beside it."""
        if not self.may_train:
            raise ArgumentsError(
                f"{count} trainings of the study are still to be made, but the base model holds a trained adapter, "
                "which they would remove. Search before train(), or make a new trainer."
            )

        def first() -> None:
            # What lies beside the journal is written by the process that owns it.
            assert self.journal is not None
            if self.team.is_local_main:
                self.journal.take()
                if not (self.evaluations or self.finals) or not (self.folder / FILE_NAME).exists():
                    save_head(self.recipe.model, self.folder)
            if search is not None and state is not None:
                self._record(search, state)

        self.team.together(first)
        self.team.together(self._open_cache)
        self.team.begin()
        if not self._shown:
            self._shown = True  # a run that goes on where another stopped shows the points of both
            self._report(self.evaluations, None)

    def _open_cache(self) -> None:
        """Once all that can be refused was refused: read the rows and run the frozen blocks."""
        if not self._cache_asked:
            self._cache_asked = True
            shared = self.folder.parent / CACHE / self.spec.fingerprint[:16] if self.team.size > 1 else None
            self.evaluator.cache = open_cache(self.recipe, self.random_rows, shared)

    def _progress(self, max_blocks: int | None) -> StudyProgress:
        last_round = len(self.spec.blocks) if max_blocks is None else max_blocks
        hidden = bool(self.recipe.args.disable_tqdm) or not self.team.is_main
        progress = StudyProgress(self.spec, last_round, hidden, self.team.size)
        progress.start(self.evaluations)
        return progress

    def _hear(self, progress: StudyProgress | None) -> list[Evaluation]:
        """Take in what has been finished, here and elsewhere."""
        new = []
        for text in self.team.results():
            data = json.loads(text)
            if "final" in data:
                self.finals.append(FinalRun.from_json(data["final"]))
                if progress is not None:
                    progress.final_done()
                continue
            if "failed" in data:
                self._failures.setdefault(data["failed"], revive(data["error"]))
                continue
            evaluation = Evaluation.from_json(data)
            self.evaluations.append(evaluation)
            new.append(evaluation)
            if progress is not None:
                progress.done(evaluation)
        return new

    def _settle(self) -> None:
        """Wait until the others have finished what they began, so that all end with the same study."""
        self.team.meet()
        self._hear(None)
        self.team.gather(None)  # the first process keeps the results until all have read them

    def _report(self, new: Iterable[Evaluation], state: SearchState | None) -> None:
        if self.reporter is not None:
            new = list(new)
            for number, evaluation in enumerate(new, start=len(self.evaluations) - len(new) + 1):
                self.reporter.evaluation(evaluation, number, state)

    def _append(self, record: Any) -> None:
        assert self.journal is not None
        self.journal.append(record)

    def _record(self, search: SearchSpec, state: SearchState) -> None:
        """Searches and decisions follow from arguments and evaluations; they are kept for those who read the file."""
        if self.journal is None or not self.team.is_main:
            return
        if search not in self.searches:
            self._append(search)
            self.searches.append(search)
        for round_ in (round_ for part in state.parts or (state,) for round_ in part.rounds):
            if round_.decision is not None and round_.decision not in self.decisions:
                self._append(round_.decision)
                self.decisions.append(round_.decision)


def _name(unit: Unit) -> str:
    """A unit of work in one word, the same in every process."""
    return f"{unit.candidate.key}/{unit.fold}/{unit.repeat}/{unit.budget!r}"
