"""`subtuning plot STUDY`: the pictures of a study, from its journal alone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentsError, JournalError, MissingDependencyError, how_to_install
from ..search.records import STRATEGIES

if TYPE_CHECKING:
    from ..plots import Reference
    from ..search.greedy import SearchState
    from ..search.journal import Study
    from ..search.profile import Profile
    from ..search.proposed import ProposalRun
    from ..search.records import Candidate, SearchSpec
    from ..search.result import SearchResult

DESCRIPTION = """\
Draw what the journal of a study holds: the finetuning profile, the ladder of each search, the pairs
of blocks, score against parameters, and who trained when. Needs no model, no data and no GPU.

STUDY is the output_dir of a search, or its folder `journal`. What the journal lacks is named, with
the command that makes it.

  subtuning plot out/flowers
  subtuning plot out/flowers --what profile,ladder --format png --theme dark --output-dir docs/images
"""

WHAT = ("profile", "ladder", "pairs", "pareto", "timeline")
FORMATS = ("png", "svg", "pdf")
SUFFIXES = {"light": "", "dark": "_dark"}
Drawing = tuple[str, Callable[..., Any]]  # name of the file, and what draws it in a theme


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning plot`."""
    parser.add_argument("study", metavar="STUDY", help="output_dir of a search, or its journal folder")
    parser.add_argument("--output-dir", metavar="DIR", help="where to write, by default `plots` beside the journal")
    for option, known, default, words in (
        ("--what", WHAT, None, "pictures to draw, by default all that the journal holds"),
        ("--format", FORMATS, ["png", "svg"], "file formats, by default png,svg"),
        ("--theme", tuple(SUFFIXES), list(SUFFIXES), "by default light,dark; a dark file ends in _dark"),
    ):
        parser.add_argument(
            option, type=partial(_words, known), default=default, metavar=",".join(known), help=f"{words}"
        )


def run(options: argparse.Namespace) -> int:
    """Draw, and say what was written, what is missing and what failed: one picture does not keep others from it."""
    try:
        from ..plots import save_figure
    except ImportError as error:
        raise MissingDependencyError(
            f"`subtuning plot` needs matplotlib: {how_to_install('plots')}, or `pip install matplotlib`."
        ) from error
    from ..search.journal import read_study

    journal = journal_of(options.study)
    folder = Path(options.output_dir) if options.output_dir else journal.parent / "plots"
    check_folder(folder)
    missing: list[str] = []
    failed: list[str] = []
    drawn = 0
    for name, draw in _drawings(Material(read_study(journal)), options.what, missing, failed):
        try:
            themes = {theme: folder / f"{name}{SUFFIXES[theme]}" for theme in options.theme}
            made = [save_figure(draw(theme=theme), file, tuple(options.format)) for theme, file in themes.items()]
        except OSError as error:  # the next one could not be written either
            raise cannot_write(folder, error) from error
        except Exception as error:
            failed.append(_failure(name, error))
            continue
        if not drawn:
            print(f"in {folder}:")
        print(f"  {', '.join(file.name for files in made for file in files)}", flush=True)
        drawn += 1
    if missing:
        print("\nnot drawn:", *missing, sep="\n  ", flush=True)
    if failed:
        print("\nfailed:", *failed, sep="\n  ", file=sys.stderr)
    elif not drawn:
        raise ArgumentsError(
            f"The journal '{journal}' holds nothing of what was to be drawn. What makes it is said above."
        )
    return 2 if failed else 0


def _drawings(
    material: Material, asked: Sequence[str] | None, missing: list[str], failed: list[str]
) -> Iterator[Drawing]:
    """What can be drawn; adds a line to `missing` or `failed` for a kind that cannot."""
    for what in asked or WHAT:
        try:
            yield from PICTURES[what](material, asked is not None)
        except Lacking as error:
            missing.append(f"{what}: {error}")
        except Exception as error:
            failed.append(_failure(what, error))


def _failure(name: str, error: Exception) -> str:
    return f"{name}: {type(error).__name__}: {error}"


def check_folder(folder: Path) -> None:
    """
    Refuse a folder in which nothing can be written, before there is something to write. Makes nothing.

    Args:
        folder (`Path`): What --output-dir says; it need not be there yet.

    Raises: [`ArgumentsError`]: If it, or the one in which it would have to be made, is a file or closed.
    """
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place) or not place.name)
    if not there.is_dir():
        raise cannot_write(folder, f"'{there}' is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise cannot_write(folder, f"no permission to write in '{there.absolute()}'")


def cannot_write(folder: Path, reason: OSError | str) -> ArgumentsError:
    """The error that says so."""
    words = reason if isinstance(reason, str) else (reason.strerror or str(reason))
    return ArgumentsError(f"Nothing can be written into '{folder}': {words}. Name another folder with --output-dir.")


def journal_of(study: str) -> Path:
    """
    The journal's folder.

    Args:
        study (`str`): That folder, or the output_dir it lies in.

    Returns: `Path`
    Raises: [`JournalError`]: If neither holds a journal.
    """
    given = Path(study)
    for folder in (given / "journal", given):
        if folder.is_dir() and any(folder.glob("*.jsonl")):
            return folder
    found = "is no folder" if not given.is_dir() else "holds no journal, and has no folder `journal` with one"
    raise JournalError(
        f"STUDY must be the output_dir of a search or its journal folder, but '{study}' {found}. A search begins its "
        "journal with the first finished training: `subtuning search --config RECIPE`."
    )


class Lacking(Exception):
    """The journal does not hold what a picture shows; the message names the command that makes it."""


@dataclass
class Material:
    """A study and what follows from it."""

    study: Study

    @cached_property
    def blocks(self) -> list[str]:
        return [block.name for block in self.study.spec.blocks]

    def profile(self, candidates: Sequence[Candidate] | None = None) -> Profile:
        from ..search.profile import profile_of

        return profile_of(self.study.spec, self.study.evaluations, candidates)

    @cached_property
    def states(self) -> list[tuple[SearchSpec, ProposalRun | None, SearchState]]:
        """Every search with what was predicted for it, and where it stands; without those that still predict."""
        from ..search.greedy import replay
        from ..search.proposals import confirm

        spec, known = self.study.spec, self.study.evaluations
        runs = {run.search: run for run in reversed(self.study.proposals)}  # of two of one search the first counts
        exact = [search for search in self.study.searches if search.strategy == "exact"]
        found: list[tuple[SearchSpec, ProposalRun | None, SearchState]] = [
            (search, None, replay(spec, search, known)) for search in exact
        ]
        return found + [(run.search, run, confirm(run, known)) for run in runs.values()]

    @cached_property
    def results(self) -> dict[str, SearchResult]:
        """
        The finished searches by direction; of several the one that went furthest, then the last. Those that predict by
        their strategy.
        """
        from ..search.result import SearchResult

        found: dict[str, SearchResult] = {}
        for search, run, state in self.states:
            if state.finished:
                name = search.direction if run is None else search.strategy
                result = SearchResult.from_state(self.study.spec, state, self.study.evaluations, run, search)
                before = found.get(name)
                if before is None or len(result.rounds) >= len(before.rounds):
                    found[name] = result
        return found

    @cached_property
    def unfinished(self) -> int:
        """Trainings that the searches under way lack for their next decisions."""
        return sum(len(state.pending) for *_, state in self.states)

    @cached_property
    def chosen(self) -> SearchResult | None:
        """The search whose blocks are marked."""
        names = ("best", "forward", "backward", "list", *STRATEGIES)
        return next((self.results[name] for name in names if name in self.results), None)

    @cached_property
    def full(self) -> Reference | None:
        """The score of all blocks together, if that was trained."""
        from ..plots import Reference
        from ..search.records import Candidate

        rows = self.profile([Candidate(tuple(self.blocks))]).rows
        sign = 1 if self.study.spec.greater_is_better else -1
        return Reference(sign * rows[0].mean, rows[0].standard_error, "all blocks") if rows else None


# --- the pictures ----------------------------------------------------------------------------
def _profile(material: Material, asked: bool) -> Iterator[Drawing]:
    from ..plots import plot_profile
    from ..search.space import windows

    profile, predicted = material.profile(), list(_predicted(material))
    yield from predicted
    if not profile.rows and predicted:
        return
    if not profile.rows:
        raise Lacking("no block alone was trained on all folds. Make it: subtuning profile --config RECIPE")
    known, result = {row.label for row in profile.rows}, material.chosen
    marks = tuple(name for name in result.blocks if name in known) if result is not None else ()
    ordered = result is not None and result.proposal is None and result.rounds[0].direction == "forward"
    full = material.full if len(material.blocks) > 1 else None
    yield "profile", partial(plot_profile, profile, selection=marks, full_finetuning=full, ordered=ordered)
    for size in range(2, len(material.blocks)):
        # Searches train some neighbours too, and a backward one both runs that lack one end; a profile is more.
        runs = material.profile(windows(material.blocks, size))
        if len(runs.rows) > 2 and not runs.missing:
            title = f"Finetuning profile of {size} blocks"
            yield f"profile_windows-{size}", partial(plot_profile, runs, full_finetuning=full, title=title)


def _predicted(material: Material) -> Iterator[Drawing]:
    """What searches predicted of single blocks, where that is more than one."""
    from ..plots import plot_predictions
    from ..search.profile import predicted_profile

    runs = [(run, result) for result in material.results.values() if (run := result.proposal) is not None]
    for run, result in runs:
        profile = predicted_profile(material.study.spec, run)
        if len(profile.rows) > 1:
            known = {row.label for row in profile.rows}
            marks = tuple(name for name in result.blocks if name in known)
            name = "profile_predicted" if len(runs) == 1 else f"profile_predicted_{run.search.strategy}"
            yield name, partial(plot_predictions, profile, selection=marks, strategy=run.search.strategy)


def _ladder(material: Material, asked: bool) -> Iterator[Drawing]:
    from ..plots import plot_ladder

    ladders = {name: result for name, result in material.results.items() if result.proposal is None}
    best = ladders.pop("best", None)
    if best is not None:
        for rounds in best.parts:
            decision, taken = rounds[-1].decision, rounds == best.rounds
            reason = best.reason if taken or decision is None else decision.reason
            ladders[rounds[0].direction] = replace(best, rounds=rounds, reason=reason, parts=())
    if not ladders:
        if material.unfinished:
            raise Lacking(
                f"no search is finished: at least {material.unfinished} trainings are missing. Go on with it: "
                "subtuning search --config RECIPE"
            )
        if material.results:
            raise Lacking(
                f"a search by {' or '.join(material.results)} predicts, and climbs no ladder. Climb one: "
                "subtuning search --config RECIPE strategy=exact"
            )
        raise Lacking("no search was begun. Make it: subtuning search --config RECIPE")
    for direction, result in ladders.items():
        yield f"ladder_{direction}" if len(ladders) > 1 else "ladder", partial(plot_ladder, result)


def _pairs(material: Material, asked: bool) -> Iterator[Drawing]:
    from ..plots import plot_pairs
    from ..search.space import pairs

    profile = material.profile(pairs(material.blocks))
    some, all_ = len(profile.rows), len(profile.rows) + len(profile.missing)
    # A forward search leaves one row and one column: little to look at, so it is drawn on demand only.
    if not some or (2 * some < all_ and not asked):
        raise Lacking(
            f"{some} of {all_} pairs of blocks were trained on all folds. Make the others: "
            "subtuning profile --config RECIPE profile.pairs=true"
        )
    yield "pairs", partial(plot_pairs, profile, material.profile())


def _pareto(material: Material, asked: bool) -> Iterator[Drawing]:
    from ..plots import plot_pareto
    from ..search.pareto import pareto_front

    front = pareto_front(material.study.spec, material.study.evaluations)
    if len(front.points) < 2:
        raise Lacking(
            f"{len(front.points)} selections were trained on all folds, and it takes two. Make more: subtuning search "
            "--config RECIPE strategy=exact"
        )
    yield "pareto", partial(plot_pareto, front)


def _timeline(material: Material, asked: bool) -> Iterator[Drawing]:
    from ..plots import plot_timeline

    if not material.study.evaluations:
        if material.results:
            raise Lacking("the search predicted and trained nothing. Give it a larger budget: args.search_budget")
        raise Lacking("no training is finished. Go on with it: subtuning search --config RECIPE")
    yield "timeline", partial(plot_timeline, material.study)


PICTURES = dict(zip(WHAT, (_profile, _ladder, _pairs, _pareto, _timeline), strict=True))


def _words(known: Sequence[str], text: str) -> list[str]:
    """Words between commas, each of them known."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            near = get_close_matches(word, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise argparse.ArgumentTypeError(f"found '{word}', expected some of {', '.join(known)}.{hint}")
    if not words:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, found nothing")
    return list(dict.fromkeys(words))
