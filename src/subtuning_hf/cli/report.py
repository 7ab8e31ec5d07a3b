"""`subtuning report STUDY`: one HTML page of all that a study has found."""

from __future__ import annotations

import argparse
import base64
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentsError, JournalError, SubTuningError, how_to_install
from .plot import PICTURES, Lacking, Material, journal_of

if TYPE_CHECKING:
    from ..report import Comparison, Picture, Search
    from ..search.greedy import SearchState
    from ..search.journal import Study
    from ..search.proposed import ProposalRun
    from ..search.records import SearchSpec

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Write one HTML page of all that a study has found: what was chosen and why, profile, ladder, what was
predicted and measured, score and price, comparison with LP and FT, cost, settings, and every training.
The page needs nothing but itself, and can be sent to somebody. Needs no model, no data and no GPU.

STUDY is the output_dir of a search, or its folder `journal`. The page is written into the output_dir.

  subtuning report out/flowers
  subtuning report out/flowers --output flowers.html --compare out/flowers-comparison
"""

FILE_NAME = "report.html"
# A picture of very many parts is smaller, and sooner shown, as a PNG.
MOST_SVG = 150_000  # bytes
_SAY_LITTLE = ("study", "search", "out", "output", "results", "run", "block", "submodule", "stage")
# Profiles of windows can be as many as there are blocks; `subtuning plot` draws all of them.
MOST_PICTURES = 3  # of a kind
_SECTIONS = {"profile": "profile", "pairs": "profile", "ladder": "ladder", "pareto": "pareto", "timeline": "timeline"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning report`."""
    parser.add_argument("study", metavar="STUDY", help="output_dir of a search, or its journal folder")
    parser.add_argument("--output", metavar="FILE", help=f"the page, by default {FILE_NAME} beside the journal")
    parser.add_argument(
        "--compare",
        metavar="FOLDER",
        help="folder in which a comparison of the chosen blocks with LP and FT was written; by default looked for "
        "beside the journal and one folder above",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the page, by default the name of the folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that this command did not write")


def run(options: argparse.Namespace) -> int:
    """Write the page, and say where, and what is wrong with the study."""
    from ..report import ReportFacts, check_target, make_page, salvage, write_page

    journal = _journal_of(options.study)
    target = Path(options.output) if options.output else journal.parent / FILE_NAME
    check_target(target, options.overwrite)
    found = salvage(journal)
    material, notes = Material(found.study), [_cut(name) for name in found.cut]
    searches = _attempt(partial(_searches, material), (), "its searches cannot be told", notes)
    shown = _attempt(lambda: material.results, {}, "", notes) if searches else {}
    chosen = _attempt(lambda: material.chosen, None, "", notes) if searches else None
    facts = ReportFacts(
        title=options.title or _title(journal.parent.resolve()),
        study=found.study,
        searches=searches,
        shown=shown,
        chosen=chosen,
        profile=_attempt(material.profile, None, "its profile cannot be told", notes),
        front=_attempt(partial(_front, found.study), None, "its Pareto front cannot be told", notes),
        pictures=_pictures(material, notes),
        damage=found.damage,
        notes=tuple(notes),
        comparison=_comparison(options.compare, journal, None if chosen is None else chosen.blocks),
        defaults=_defaults(),
        short=_short_names(material.blocks),
    )
    write_page(make_page(facts), target, options.overwrite)
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")
    for line in (*found.damage, *notes):
        print(f"  {line}")
    return 0


def _title(folder: Path) -> str:
    """The folder's name, with the one above where it says little."""
    name = folder.name or "study"
    return f"{folder.parent.name}/{name}" if name in _SAY_LITTLE and folder.parent.name else name


def _journal_of(study: str) -> Path:
    """As `plot` finds it; a folder of other JSON lines is none, and may hold the study one folder below."""
    folder = journal_of(study)
    if folder.name == "journal" or any(_is_journal(file) for file in folder.glob("*.jsonl")):
        return folder
    below = [path.parent for path in sorted(folder.glob("*/journal")) if path.is_dir()]
    hint = f" Did you mean '{below[0]}'?" if below else ""
    raise JournalError(
        f"STUDY must be the output_dir of a search or its journal folder, but the .jsonl files in '{study}' are no "
        f"journal.{hint}"
    )


def _is_journal(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(15) == b'{"type":"study"'
    except OSError:
        return False


def _cut(name: str) -> str:
    return (
        f"The last line of {name} is not whole, and left out: a training was just being recorded, or its process was "
        "killed then. A search that goes on repairs it."
    )


def _attempt(make: Callable[[], Any], otherwise: Any, words: str, notes: list[str]) -> Any:
    """What records of a damaged study come to, or else a note: what is left of them may contradict itself."""
    try:
        return make()
    except SubTuningError as error:
        if words:
            notes.append(f"From what there is, {words}: {error}")
        return otherwise


# --- what follows from the records -----------------------------------------------------------
def _searches(material: Material) -> tuple[Search, ...]:
    """Every search once, those that still predict at the end."""
    from ..report import Search

    found = {spec: _search(material.study, spec, run, state) for spec, run, state in material.states}
    for spec in material.study.searches:
        found.setdefault(spec, Search(spec))
    return tuple(found.values())


def _search(study: Study, spec: SearchSpec, run: ProposalRun | None, state: SearchState) -> Search:
    from ..report import Search
    from ..search.result import SearchResult

    finished = state.finished and state.reason is not None
    result = SearchResult.from_state(study.spec, state, study.evaluations, run, spec) if finished else None
    return Search(spec, state, result, run)


def _front(study: Study) -> Any:
    from ..search.pareto import pareto_front

    return pareto_front(study.spec, study.evaluations)


def _defaults() -> Mapping[str, Any] | None:
    """The settings of a study in which nothing was asked for; `None` where these arguments cannot be made."""
    from ..training.arguments import GreedySubTuningArguments
    from ..training.identity import settings_of

    try:
        return settings_of(GreedySubTuningArguments("defaults"), inner=True, random_data=True)
    except (SubTuningError, ValueError, ImportError, RuntimeError) as error:
        logger.info(f"Defaults of the settings are not known: {error}")
        return None


def _short_names(blocks: Sequence[str]) -> dict[str, str]:
    try:
        from ..plots import short_names
    except ImportError:
        return {}
    return dict(zip(blocks, short_names(blocks)[0], strict=True))


# --- comparison -----------------------------------------------------------------------------
def _comparison(asked: str | None, journal: Path, blocks: Sequence[str] | None) -> Comparison | None:
    """What lies beside the journal; a folder that was asked for must hold it."""
    from ..report.comparison import LOG, RESULTS

    if asked is not None and not Path(asked).is_dir():
        raise ArgumentsError(f"--compare must be the folder of a comparison, but '{asked}' is no folder.")
    if asked is not None and blocks is None:
        raise ArgumentsError(
            "--compare sets the chosen blocks beside other methods, but no search of this study is finished. Finish "
            "it, or leave --compare out."
        )
    folders = [Path(asked)] if asked is not None else [journal.parent, journal.parent.resolve().parent]
    for folder in folders if blocks is not None else ():
        found = _compared(folder, blocks or ())
        if found is not None:
            return found
    if asked is not None:
        raise ArgumentsError(
            f"--compare: '{asked}' holds no comparison of the chosen blocks ({', '.join(blocks or ()) or 'none'}) with "
            f"other methods in {', '.join((*RESULTS, LOG))}. Give the folder that was written by one for this study."
        )
    return None


def _compared(folder: Path, blocks: Sequence[str]) -> Comparison | None:
    from ..report import Comparison, read_rows

    found = read_rows(folder, blocks)
    return None if found is None else Comparison(*found, _verdict(found[0]))


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Who is ahead, where the scores are shares of right rows: the rule of noise is made for these."""
    from ..compare import verdict

    shares = all(0 <= row["mean"] <= 1 for row in rows)
    ours = sum(row["method"] == "SubTuning" for row in rows) == 1
    usable = all(row["scores"] and row["num_examples"] > 0 and row["trainable_parameters"] > 0 for row in rows)
    return verdict(rows) if shares and ours and usable else ""


# --- pictures -------------------------------------------------------------------------------
def _pictures(material: Material, notes: list[str]) -> dict[str, list[Picture]]:
    """All that `subtuning plot` would draw, by the section of the page."""
    try:
        from ..plots import save_figure  # noqa: F401
    except ImportError:
        notes.append(f"Without pictures, since matplotlib is not installed: {how_to_install('plots')}.")
        return {}
    found: dict[str, list[Picture]] = {}
    for what, section in _SECTIONS.items():
        try:
            drawings = list(PICTURES[what](material, False))
            shown = drawings[:MOST_PICTURES]
            for name, draw in shown:
                place = "predictions" if name.startswith("profile_predicted") else section
                found.setdefault(place, []).append(_picture(material, what, name, draw))
            if len(shown) < len(drawings):
                left = len(drawings) - len(shown)
                notes.append(f"{left} more pictures of the {what} are left out; `subtuning plot` draws them.")
        except Lacking:
            continue
        except (SubTuningError, ArithmeticError, TypeError, ValueError) as error:  # records hold what anybody wrote
            notes.append(f"From what there is, no {what} can be drawn: {error}")
    return found


def _picture(material: Material, what: str, name: str, draw: Callable[..., Any]) -> Picture:
    from ..report import Picture

    return Picture(_embedded(draw(theme="light")), _embedded(draw(theme="dark")), _alt(material, what, name, draw))


def _embedded(figure: Any) -> str:
    """A picture as an address that holds it. Names in one SVG do not meet those of another this way."""
    from ..plots import save_figure

    with tempfile.TemporaryDirectory(prefix="subtuning-report-") as folder:
        (file,) = save_figure(figure, Path(folder) / "picture", ("svg",))
        data, kind = file.read_bytes(), "svg+xml"
        if len(data) > MOST_SVG:
            (file,) = save_figure(figure, Path(folder) / "picture", ("png",))
            if file.stat().st_size < len(data):
                data, kind = file.read_bytes(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _alt(material: Material, what: str, name: str, draw: Any) -> str:
    """What a picture shows; `draw` is a `partial` of what it is drawn from."""
    from ..report import words

    if what == "pareto":
        return words.pareto_alt(_front(material.study))
    if what == "timeline":
        return words.timeline_alt(material.study)
    drawn = draw.args[0]
    if what == "ladder":
        return words.ladder_alt(drawn)
    marked = name == "profile" or name.startswith("profile_predicted")
    return words.profile_alt(drawn, material.chosen if marked else None)
