"""
`docs/evidence.md`, from the results that are committed.

    python benchmarks/evidence.py

Nothing is trained. Every table is read from the folder of its study, which holds the journals or lines that it was made
from, and is given with its command and the commit that its results were last changed by. What is a judgement (who wins
where) is counted here, so that the words cannot say more than the numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parent))
from comparisons import METHODS, SEEN, SETTINGS, SIGNS, overview, read, tally, titled
from evidence_studies import CHOOSING, COSTS, STUDIES, TASKS, UNKNOWN, Study

from subtuning_hf.plots import save_figure

ROOT = Path(__file__).resolve().parent.parent
Rows = list[dict[str, Any]]
TEXT_TASKS = "#token-labels-numbers-and-language-models"
COLORS = {"SubTuning": "tab:blue", "FT": "0.35", "LP": "tab:red", "LoRA": "tab:orange", "surgical": "tab:green"}


def link(path: Path) -> str:
    """Address from `docs/`."""
    found = path.resolve().relative_to(ROOT)
    return found.name if found.parts[0] == "docs" else f"../{found.as_posix()}"


def stamp(path: Path) -> str:
    """The commit that last changed a path."""
    asked = ["git", "log", "-1", "--format=%h of %cs", "--", str(path)]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return f"commit {found}" if found else "not committed yet"


def table_of(text: str, heading: str = "") -> list[str]:
    """
    The first table of a Markdown text.

    Args:
        text (`str`): With tables in `|` or in fences.
        heading (`str`, *optional*): A line after which to look, without its `#`.

    Returns: `list[str]`: its lines.
    Raises: `ValueError`: If there is none.
    """
    lines = text.splitlines()
    if heading:
        places = [place for place, line in enumerate(lines) if line.lstrip("# ") == heading]
        if not places:
            raise ValueError(f"no heading {heading!r}")
        lines = lines[places[0] + 1 :]
    for place, line in enumerate(lines):
        if line.startswith("|"):
            end = next((at for at in range(place, len(lines)) if not lines[at].startswith("|")), len(lines))
            return lines[place:end]
        if line.startswith("```"):
            end = next(at for at in range(place + 1, len(lines)) if lines[at].startswith("```"))
            return lines[place : end + 1]
    raise ValueError("no table" + (f" after {heading!r}" if heading else ""))


# --- comparisons -----------------------------------------------------------------------------
def outcomes(found: Mapping[tuple[str, int], Rows], method: str) -> dict[tuple[str, int], tuple[str, float]]:
    """By setting: whether SubTuning wins, ties or loses against a method, and by how many points."""
    word = {"wins": "loses", "loses": "wins", "ties": "ties"}
    rows = {key: next((row for row in ones if row["method"] == method), None) for key, ones in found.items()}
    return {
        key: (word[row["against"]["outcome"]], -100 * row["against"]["mean"])
        for key, row in rows.items()
        if row is not None and row.get("against")
    }


KINDS = ("all", "seen before the last rule was made (†)", "not seen", "at most 100 rows", "more rows",
         "corrupted images", "other images", "text")  # fmt: skip


def kinds_of(name: str, seed: int) -> list[str]:
    """What a setting belongs to in the test of the claim."""
    setting = SETTINGS[name]
    return [
        "all",
        KINDS[1] if (name, seed) in SEEN else "not seen",
        "at most 100 rows" if setting.rows <= 100 else "more rows",
        "corrupted images" if "cifar10_c" in setting.data else "text" if setting.is_text else "other images",
    ]


def claim(found: Mapping[tuple[str, int], Rows]) -> list[str]:
    """Wins, ties and losses against FT and LP, by kind of setting."""
    lines = ["| settings | number | against FT: wins, ties, losses | mean | against LP: wins, ties, losses | mean |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in KINDS:
        cells = []
        for method in ("FT", "LP"):
            ones = [one for key, one in outcomes(found, method).items() if kind in kinds_of(*key)]
            if not ones:
                break
            counts = ", ".join(str(sum(word == each for each, _ in ones)) for word in ("wins", "ties", "loses"))
            cells += [counts, f"{statistics.fmean(gap for _, gap in ones):+.1f}"]
        if cells:
            number = sum(kind in kinds_of(*key) for key in found)
            lines.append(f"| {kind} | {number} | {' | '.join(cells)} |")
    return lines


def losses(found: Mapping[tuple[str, int], Rows]) -> list[str]:
    """Where another method is above SubTuning, and the interval of the difference without 0."""
    lines = []
    for (name, seed), rows in found.items():
        above = [
            f"{row['method']} by {100 * row['against']['mean']:.1f}"
            for row in rows
            if (row.get("against") or {}).get("outcome") == "wins"
        ]
        if above:
            lines.append(f"- {titled(name, seed)}: {', '.join(above)} points")
    return lines or ["- in none of these settings"]


def elsewhere(results: Path) -> list[str]:
    """The same for studies with tables of their own."""
    lines = asked_for(results)
    for folder, place in (("baselines", "all-methods-of-subtuning-compare-text"), ("vtab", "the-protocol-of-vtab-1k")):
        for key, rows in read(results / folder).items():
            ahead = [row for row in rows if (row.get("against") or {}).get("outcome") == "wins"]
            words = ", ".join(f"{row['method']} by {100 * row['against']['mean']:.1f} points" for row in ahead)
            lines += [f"- {titled(*key)}, in [a study of its own](#{place}): {words}"] if words else []
    for file in sorted(results.glob("text_tasks/*/found.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        gap = statistics.fmean(one["all blocks"]["shown"]) - statistics.fmean(one["SubTuning"]["shown"])
        if gap > 0 if one["higher_is_better"] else gap < 0:
            task = file.parent.name.split("_seed-")[0]
            lines.append(f"- {task}, {one['unit']}: all blocks by {abs(gap):.2g} ([below]({TEXT_TASKS}))")
    return lines


def asked_for(results: Path) -> list[str]:
    """Active learning: the budget of random rows at which the full fine-tune is furthest ahead."""
    scores: dict[int, dict[str, list[float]]] = {}
    for file in sorted(results.glob("active/seed-*.json")):
        for one in json.loads(file.read_text(encoding="utf-8"))["rounds"]:
            if one["acquisition"] == "random":
                scores.setdefault(one["budget"], {}).setdefault(one["method"], []).append(100 * one["score"])
    means = {most: {name: statistics.fmean(each) for name, each in by.items()} for most, by in scores.items()}
    worst = max(means, key=lambda most: means[most]["FT"] - means[most]["SubTuning"], default=None)
    if worst is None or means[worst]["FT"] <= means[worst]["SubTuning"]:
        return []
    ours, theirs = means[worst]["SubTuning"], means[worst]["FT"]
    words = f"FT {theirs:.1f}, SubTuning {ours:.1f} ([below](#active-learning))"
    return [f"- in active learning, {worst} random rows of 20 classes of CIFAR-100: {words}"]


def draw_rows(found: Mapping[tuple[str, int], Rows], path: Path) -> bool:
    """Accuracy against training rows, for data sets that were compared with several numbers of rows."""
    families: dict[str, dict[int, Rows]] = {}
    for (name, seed), rows in found.items():
        if seed == 0 and name.rsplit("-", 1)[0] in ("contrast", "noise", "digits", "trec6", "sst2"):
            families.setdefault(name.rsplit("-", 1)[0], {})[SETTINGS[name].rows] = rows
    families = {name: sizes for name, sizes in families.items() if len(sizes) > 1}
    if not families:
        return False
    width = max(3.1 * len(families), 6.2)
    figure, panels = plt.subplots(1, len(families), figsize=(width, 3.4), layout="constrained", squeeze=False)
    for axes, (family, sizes) in zip(panels[0], families.items(), strict=True):
        for method, color in COLORS.items():
            points = [(n, row) for n, rows in sorted(sizes.items()) for row in rows if row["method"] == method]
            means, spreads = [100 * row["mean"] for _, row in points], [100 * row["spread"] for _, row in points]
            marker = "o" if method == "SubTuning" else "."
            axes.errorbar([n for n, _ in points], means, spreads, marker=marker, color=color, label=method, capsize=2)
        axes.set_xscale("log")
        ticks = sorted(sizes)
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.minorticks_off()
        axes.set_title(family, fontsize=10)
        axes.set_xlabel("training rows")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("test accuracy, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    save_figure(figure, path)
    plt.close(figure)
    return True


def compared(results: Path, docs: Path) -> list[str]:
    """The part on baselines."""
    found = read(results / "comparisons")
    names = [name for name in METHODS if any(row["method"] == name for rows in found.values() for row in rows)]
    has_picture = draw_rows(found, docs / "evidence_rows")
    picture = ["![Test accuracy against training rows](evidence_rows.png)", ""] if has_picture else []
    return [
        "## Should I do this instead of a full fine-tune or LoRA?",
        "",
        f"{len(found)} settings, one draw of rows each. Every method had the same rows and epochs, six trials of "
        "hyperparameters on one shared fold (four spread alike, two beside its best or beyond an edge), and five final "
        "seeds; [how](howto/compare.md). Where trials lie was changed after eight of these settings had been compared, "
        "since LoRA's were found too high; all methods were then tried anew. Test accuracy in percent. "
        f"{SIGNS} The number in a name is that of the "
        "training rows; `contrast` and `noise` are CIFAR-10-C, `digits` photos of sign language (ResNet-20, `deep` "
        "ResNet-32), `trec6` and `sst2` sentences (MiniLM).",
        "",
        *overview(found, names),
        "",
        *picture,
        *tally(found, names),
        "",
        "### The claim of the paper",
        "",
        "SubTuning against the tuned full fine-tune and the tuned linear probe; means in points of accuracy.",
        "",
        *claim(found),
        "",
        "On ResNets under corruption much of what tuning early blocks gains comes from their batch norms: what does "
        "not train them (LP, LoRA) keeps their old statistics, as an adapter of it would. Norms and biases alone, and "
        "LoRA with norms, are among [all methods](#all-methods-of-subtuning-compare-images).",
        "",
        "### Where another method is ahead",
        "",
        *losses(found),
        "- in `subtuning demo`: over five seeds the full fine-tune is ahead by 4.1 points (standard error 1.7; "
        "`benchmarks/demo_seeds.py`)",
        *elsewhere(results),
        "",
        *source("python benchmarks/comparisons.py --bench BENCH --output-dir benchmarks/results/comparisons",
                results / "comparisons" / "comparisons.md"),
    ]  # fmt: skip


# --- the other studies -----------------------------------------------------------------------
def source(command: str, file: Path) -> list[str]:
    """Where numbers come from."""
    return [f"`{command}`; [details]({link(file)}); results of {stamp(file)}.", ""]


def studied(study: Study, results: Path) -> list[str]:
    """One table with its words and source; nothing for a study that was not run yet."""
    file = results / study.file
    if not file.exists():
        return []
    picture = file.parent / study.picture if study.picture else None
    shown = [f"![{study.title}]({link(picture)})", ""] if picture is not None and picture.exists() else []
    text = file.read_text(encoding="utf-8")
    if study.heading and study.heading not in [line.lstrip("# ") for line in text.splitlines()]:
        return []
    table = [
        *table_of(text, study.heading),
        *(f"\n{line}" for line in text.splitlines() if line.startswith(study.also)),
    ]
    return [f"### {study.title}", "", study.words, "", *table, "", *shown, *source(study.command, file)]


def times(results: Path) -> str:
    """One sentence on what the default search takes."""
    lines = (results / "proxies" / "times.jsonl").read_text(encoding="utf-8").splitlines()
    ratios = []
    for one in map(json.loads, lines):
        pairs = zip(one["search_seconds"], one["full_fine_tune_seconds"], strict=True)
        ratios.append(statistics.median(search / tuned for search, tuned in pairs))
    return (
        f"Seconds of the default search over those of one full fine-tune, in turn, three times: median over "
        f"{len(ratios)} settings {statistics.median(ratios):.2f}, at most {max(ratios):.2f} "
        f"(`python benchmarks/proxies/choose.py --times`, `times.jsonl` beside the other results)."
    )


def write(results: Path, docs: Path) -> str:
    """The whole page."""

    def part(title: str, words: Sequence[str], studies: Sequence[Study]) -> list[str]:
        found = [line for study in studies for line in studied(study, results)]
        return [f"## {title}", "", *words, *found] if found or words else []

    return "\n".join(
        [
            "# What was measured",
            "",
            "Written by `python benchmarks/evidence.py` from the results in `benchmarks/results`, which hold the "
            "journals of every run. All of it was run on one thread of a virtual x86-64 CPU with two cores, "
            "often beside "
            "other work, with small models: read seconds as ratios only, and nothing here as a statement on "
            "large models. "
            "The bench is a folder with the models and data sets named here; each study says its seeds.",
            "",
            *compared(results, docs),
            *part("Which blocks, and how they are found", [times(results), ""], CHOOSING),
            *part("Studies of the paper", [], STUDIES),
            *part("What it costs", [], COSTS),
            *part("Many tasks on one trunk", [], TASKS),
            "## What is not known",
            "",
            *UNKNOWN,
            "",
        ]
    )


def main() -> None:
    """Write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    text = write(options.results.resolve(), options.docs.resolve())
    (options.docs / "evidence.md").write_text(text, encoding="utf-8")
    print(f"{options.docs / 'evidence.md'}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
