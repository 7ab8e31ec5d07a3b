"""
Where a search may start: the blocks that a search for another task chose on the same base.

Reads the configuration of an adapter and the journal beside it, in a folder or on the Hub. Both may be anybody's: sizes
are bounded, and of the journal only what was decided is read. Its scores are of other data and are not looked at, so
that nothing depends on whether they are true. Knows no trainer; decides nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AdapterFileError, AdapterMismatchError, SubTuningError
from ..search.lines import FORMAT
from ..search.origin import SearchStart
from ..search.records import Decision, StudySpec
from .files import JOURNAL

JOURNAL_BYTES = 32 * 2**20
MOST_FILES = 1024
MOST_BLOCKS = 2_000
MOST_DECISIONS = 10_000
# What must be equal for blocks to mean the same. Head, data, folds and settings are the other task's own.
WEIGHTS = {"stem": "what lies outside of blocks and head", "blocks": "the blocks"}


@dataclass(frozen=True)
class StartingPoint:
    """
    What another search chose.

    Args:
        source (`str`): Folder or Hub name of its adapter, without a revision.
        blocks (`tuple[str, ...]`): The blocks of the adapter, in the order in which they were chosen where that is
            known, else as the adapter lists them.
        ordered (`bool`): Whether the order is that of a search.
        obstacles (`tuple[str, ...]`): Why they may not be used, each a sentence; empty if they may.
        revision (`str`, *optional*): The commit on the Hub that was read; not compared.
    """

    source: str
    blocks: tuple[str, ...]
    ordered: bool
    obstacles: tuple[str, ...] = ()
    revision: str | None = field(default=None, compare=False)

    @property
    def usable(self) -> bool:
        """`bool`: whether nothing speaks against it."""
        return not self.obstacles


def read_start(source: str | os.PathLike[str], spec: StudySpec, **hub: Any) -> StartingPoint:
    """
    Read which blocks an adapter's search chose, and whether they mean the same in a study.

    Args:
        source (`str` or `os.PathLike`): Folder or Hub name of an adapter with its journal; `user/adapter@revision` too.
        spec ([`StudySpec`]): The study that is to start from it.
        hub: For `hf_hub_download`, such as `revision` or `token`.

    Returns: [`StartingPoint`]: with its obstacles, such as another base.
    Raises:
        [`AdapterFileError`]: If there is no adapter, or its configuration is not one.
    """
    name, commit = os.fspath(source), None
    if Path(name).is_dir():
        config, journals, problem = _on_disk(Path(name))
    else:
        name, _, revision = name.partition("@")
        commit = _commit_of(name, {**hub, "revision": revision} if revision else hub)
        config, journals, problem = _on_hub(name, {**hub, "revision": commit})
    chosen = _blocks_of(config)
    obstacles = [] if problem is None else [problem]
    decisions: list[Decision] = []
    specs: list[StudySpec] = []
    for path in journals:
        try:
            found, told = _read(path)
        except (SubTuningError, ValueError, RecursionError, OSError) as error:
            obstacles.append(f"Its journal '{path.name}' cannot be read: {str(error)[:200]}")
            continue
        specs += [] if found is None else [found]
        decisions += told
    if problem is None and not specs and not obstacles:
        obstacles.append("There is no journal beside it that says how its blocks were chosen.")
    for other in specs:
        obstacles += [each for each in _differences(other, spec) if each not in obstacles]
    known = [block.name for block in spec.blocks]
    strange = [block for block in chosen if block not in known]
    if strange:
        obstacles.append(f"Its block '{strange[0][:200]}' is none of the {len(known)} blocks to choose from here.")
    order = in_order(chosen, decisions)
    if specs and order is None:
        obstacles.append("No search in its journal ended with its blocks.")
    return StartingPoint(name, tuple(order or chosen), order is not None, tuple(obstacles), commit)


def search_start(source: str | os.PathLike[str], spec: StudySpec, **hub: Any) -> SearchStart:
    """
    What a search takes from an adapter that it starts from.

    Args:
        source (`str` or `os.PathLike`), spec ([`StudySpec`]), hub: As for [`read_start`].

    Returns: [`SearchStart`]: of a folder its name alone is kept, since journals are published.
    Raises:
        [`AdapterFileError`]: If there is no adapter, or its configuration is not one.
        [`AdapterMismatchError`]: If its blocks were not chosen on this base, or nothing says so.
    """
    found = read_start(source, spec, **hub)
    if not found.usable:
        raise AdapterMismatchError(
            f"The search cannot start from '{found.source}'. {' '.join(found.obstacles)} Name an adapter that a search "
            "on this base has chosen the blocks of, or leave `start_from` out."
        )
    local = Path(found.source).is_dir()
    return SearchStart(found.blocks, Path(found.source).resolve().name if local else found.source, found.revision)


# --- files -----------------------------------------------------------------------------------
def _on_disk(folder: Path) -> tuple[Path, list[Path], str | None]:
    from ..tuner.intake import file_in

    config = file_in(folder, "adapter_config.json")
    if config is None:
        raise AdapterFileError(f"There is no adapter in '{folder}': it has no adapter_config.json. Name another.")
    inside = folder / JOURNAL
    try:
        names = sorted(path.name for path in inside.glob("*.jsonl"))
        paths = [path for path in (file_in(folder, f"{JOURNAL}/{name}") for name in names[: MOST_FILES + 1]) if path]
        return config, *_bounded(paths, [path.stat().st_size for path in paths])
    except (AdapterFileError, OSError) as error:
        return config, [], f"Its journal cannot be read: {str(error)[:300]}"


def _commit_of(name: str, hub: dict[str, Any]) -> str | None:
    """The commit that a name and its revision stand for, so that all files are of one."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=hub.get("token")).model_info(name, revision=hub.get("revision")).sha
    except Exception as error:
        raise _missing(name, error) from error


def _missing(name: str, error: Exception) -> AdapterFileError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return AdapterFileError(f"There is no adapter '{name}', as a folder or on the Hub: {first}")


def _on_hub(name: str, hub: dict[str, Any]) -> tuple[Path, list[Path], str | None]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    api = HfApi(token=hub.get("token"))
    revision = hub.get("revision")
    try:
        config = Path(hf_hub_download(name, "adapter_config.json", **hub))
    except Exception as error:
        raise _missing(name, error) from error
    try:
        listed = [each for each in api.list_repo_files(name, revision=revision) if _is_journal(each)]
        infos = api.get_paths_info(name, listed, revision=revision) if listed else []
        _, problem = _bounded(listed, [getattr(each, "size", 0) for each in infos])
        paths = [] if problem else [Path(hf_hub_download(name, each, **hub)) for each in sorted(listed)]
    except (OSError, ValueError, EntryNotFoundError) as error:
        return config, [], f"Its journal cannot be read: {str(error).strip().splitlines()[0][:300]}"
    return config, paths, problem


def _is_journal(path: str) -> bool:
    folder, _, name = path.partition("/")
    return folder == JOURNAL and "/" not in name and name.endswith(".jsonl")


def _bounded(paths: Sequence[Any], sizes: Iterable[int]) -> tuple[list[Any], str | None]:
    total = sum(sizes)
    if len(paths) > MOST_FILES or total > JOURNAL_BYTES:
        return [], (
            f"Its journal has {total:,} bytes in {len(paths):,} files, more than the {JOURNAL_BYTES:,} and "
            f"{MOST_FILES:,} that are read."
        )
    return list(paths), None


# --- what they say ---------------------------------------------------------------------------
def _blocks_of(config: Path) -> list[str]:
    from ..tuner.intake import read_object

    blocks = read_object(config).get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(name, str) for name in blocks):
        raise AdapterFileError(
            f"'{config}' must list the names of its `blocks`, found {str(blocks)[:80]}. Name an adapter of SubTuning."
        )
    if len(set(blocks)) < len(blocks) or len(blocks) > MOST_BLOCKS:
        raise AdapterFileError(f"'{config}' names a block twice, or more than {MOST_BLOCKS:,}. Name another adapter.")
    return blocks


def _read(path: Path) -> tuple[StudySpec | None, list[Decision]]:
    """Header and decisions; a last line that was cut while it was written is left out, as in any journal."""
    with open(path, "rb") as file:
        data = file.read(JOURNAL_BYTES + 1)
    *lines, _ = data.split(b"\n")
    if not lines:
        return None, []
    header = _object(lines[0], 1)
    if header.pop("type", None) != "study" or not isinstance(header.get("blocks"), list):
        raise ValueError("its first line is not the header of a study.")
    version = header.pop("format", None)
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise ValueError(f"it has format {str(version)[:20]}, and formats 1 to {FORMAT} are known here.")
    if len(header["blocks"]) > MOST_BLOCKS:
        raise ValueError(f"it names {len(header['blocks']):,} blocks, and {MOST_BLOCKS:,} are allowed.")
    spec = StudySpec.from_json(header)
    decisions: list[Decision] = []
    for number, line in enumerate(lines[1:], start=2):
        if b'"type":"decision"' not in line[:200]:
            continue  # scores among them, which mean nothing here
        if len(decisions) == MOST_DECISIONS:
            raise ValueError(f"it decides more than {MOST_DECISIONS:,} times.")
        told = _object(line, number)
        winner = told.get("winner")
        if isinstance(winner, dict) and len(winner.get("blocks") or ()) > len(spec.blocks):
            raise ValueError(f"its line {number} chooses more blocks than there are.")
        told.pop("type")
        decisions.append(Decision.from_json(told))
    return spec, decisions


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its line {number} is not JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its line {number} must hold a JSON object.")
    return found


def _differences(other: StudySpec, spec: StudySpec) -> list[str]:
    """Why blocks of another study are not those of this one."""
    theirs, here = ({block.name: block.num_parameters for block in each.blocks} for each in (other, spec))
    if theirs.keys() != here.keys():
        one = next(iter([*(theirs.keys() - here.keys()), *(here.keys() - theirs.keys())]))
        return [
            f"It was chosen from {len(theirs)} blocks and here are {len(here)}, which are others, '{one[:200]}' among "
            "them: it is another base, or another choice of `blocks` or `granularity`."
        ]
    sizes = [name for name in theirs if theirs[name] != here[name]]
    if sizes:
        name = sizes[0]
        return [f"Its block '{name}' has {theirs[name]:,} parameters, here it has {here[name]:,}: it is another base."]
    found = []
    for part, words in WEIGHTS.items():
        if part not in other.fingerprints or part not in spec.fingerprints:
            found.append(f"Nothing says whether the weights of {words} are those of this base.")
        elif other.fingerprints[part] != spec.fingerprints[part]:
            found.append(f"Its base had other weights in {words}: it is another base, or another revision of it.")
    return found


def in_order(chosen: Iterable[str], decisions: Sequence[Decision]) -> list[str] | None:
    """
    Blocks in the order in which a search chose them.

    Args:
        chosen (`Iterable[str]`): The blocks.
        decisions (`Sequence[Decision]`): What was decided, in the order of the journal.

    Returns: `list[str]`: of a forward search as they were added, of any other in forward order; `None` if no decision
        ends with these blocks.
    """
    wanted = set(chosen)
    winners = [each for each in decisions if each.winner is not None]
    last = next((each for each in reversed(winners) if set(each.winner.blocks) == wanted), None)  # type: ignore[union-attr]
    if last is None or last.winner is None:
        return None
    added: list[str] = []
    step, left = last, wanted
    while step.direction == "forward" and left:
        before = [
            each
            for each in winners
            if each.direction == "forward"
            and each.round == step.round - 1
            and each.winner is not None
            and set(each.winner.blocks) < left
        ]
        if not before:
            break
        step = before[-1]
        assert step.winner is not None
        here = set(step.winner.blocks)
        added[:0] = [name for name in last.winner.blocks if name in left - here]
        left = here
    return added if not left else list(last.winner.blocks)
