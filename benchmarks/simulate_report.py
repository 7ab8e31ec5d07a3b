"""
The report of `benchmarks/simulate_search.py`: tables, sentences and pictures from its numbers.

    python benchmarks/simulate_report.py

writes `results.md` and the pictures anew from `results.json` in `results/simulation`, without simulating anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from subtuning_hf.plots.style import Theme, finish, new_figure, save_figure, theme_of


# --- numbers of simulated searches -----------------------------------------------------------
def row_of(runs: Sequence[Any], alone: Sequence[Any]) -> dict[str, Any]:
    """Means over runs that differ in their seed; `alone` are the same searches in one process."""
    workers, seconds, count = runs[0].workers, sum(run.seconds for run in runs), len(runs)
    shares, total = [shares_of(run) for run in runs], sum(run.ended * workers for run in runs)
    # A guess in round 0 is always right: its only candidate wins.
    guesses = [{number: round_ for number, round_ in run.guesses.items() if round_} for run in runs]
    firsts: list[bool] = []
    for run, claimed in zip(runs, guesses, strict=True):
        first_of = {round_: number for number, round_ in reversed(claimed.items())}
        firsts += [number in used_by(run) for number in first_of.values()]
    return {
        "search": runs[0].problem.name,
        "pruner": runs[0].problem.search.pruner,
        "blocks": len(runs[0].problem.spec.blocks),
        "folds": runs[0].problem.spec.num_folds,
        "rounds": len(runs[0].state.rounds),
        "widest": max(step.units for run in runs for step in run.steps),
        "workers": workers,
        "seconds": seconds / count,
        "speedup": sum(run.seconds for run in alone) / seconds,
        "used": sum(len(used_by(run)) for run in runs) / count,
        "made": sum(len(run.known) for run in runs) / count,
        "guesses": sum(map(len, guesses)) / count,
        "guesses_used": sum(len(used_by(r).intersection(g)) for r, g in zip(runs, guesses, strict=True)) / count,
        "first_guesses": [sum(firsts), len(firsts)],
        "shares": {name: sum(share[name] for share in shares) / total for name in shares[0]},
    }


def used_by(run: Any) -> set[int]:
    """Evaluations that a decision has read, by their numbers."""
    return {run.numbers[each.unit] for round_ in run.state.rounds for each in round_.evaluations}


def shares_of(run: Any) -> dict[str, float]:
    """Seconds of all processes together, by what they were spent on."""
    used, taken = used_by(run), {n: each.seconds + run.problem.overhead for n, each in run.known.items()}
    shares = {
        "used": sum(seconds for number, seconds in taken.items() if number in used),
        "wasted": sum((seconds for number, seconds in taken.items() if number not in used), run.lost),
    }
    if run.mode.ahead == "none":  # else trainings are not of the step they are made in
        begin, later = run.steps[0], run.steps[1:]
        shares["start"] = run.workers * (begin.end - begin.begin) - begin.busy
        shares["narrow"] = sum(max(0, run.workers - step.units) * (step.end - step.begin) for step in later)
        shares["late"] = sum(step.late for step in later)
    return shares | {"idle": run.workers * run.ended - sum(shares.values())}


class Numbers:
    """What was simulated and measured, as in `results.json`."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data, self.stated, self.rows = data, data["stated"], data["rows"]
        studies = {(row["search"], row["pruner"]) for row in self.rows}
        self.studies = sorted(studies, key=lambda study: (list(COLOURS).index(study[0]), study[1]))
        self.modelled = [study for study in self.studies if study[0] != "recorded"]
        self.workers = sorted({row["workers"] for row in self.rows})

    def of(self, study: tuple[str, str], workers: int, mode: str = "off", watched: int | None = None) -> dict[str, Any]:
        """One row."""
        wanted = (*study, workers, mode, watched)
        keys = ("search", "pruner", "workers", "mode", "watched")
        return next(row for row in self.rows if tuple(row[key] for key in keys) == wanted)

    def saved(self, study: tuple[str, str], workers: int, mode: str, watched: int | None = None) -> float:
        """Share of the time that a mode saves."""
        return 1 - self.of(study, workers, mode, watched)["seconds"] / self.of(study, workers)["seconds"]

    def most(self, study: tuple[str, str], efficiency: float) -> int:
        """The most processes up to which all are used so well."""
        found = [n for n in self.workers if self.of(study, n)["speedup"] / n >= efficiency]
        return max(n for n in found if all(m in found for m in self.workers if m <= n))


# --- tables ----------------------------------------------------------------------------------
HEADS = """processes | time | speed-up | efficiency | idle: round 0 | more processes than work | end of a step
 | claims, pauses | guess in round 0 | guess in all | evaluations wasted | guesses used | first guess right
 | guess and abandon""".replace("\n", "")


def table(numbers: Numbers, study: tuple[str, str]) -> list[str]:
    """A search with one pruner, for every number of processes."""
    lines = [f"| {HEADS} |", "|" + " ---: |" * (HEADS.count("|") + 1)]
    for workers in numbers.workers:
        row, guess = numbers.of(study, workers), numbers.of(study, workers, "speculate")
        share, (right, rounds), speed = row["shares"], guess["first_guesses"], row["speedup"]
        cells = [f"{workers:,}", duration(row["seconds"]), f"{speed:.1f}", f"{100 * speed / workers:.0f} %"]
        cells += [f"{100 * share[name]:.1f} %" for name in ("start", "narrow", "idle", "late")]
        cells += [f"{100 * numbers.saved(study, workers, mode):+.1f} %" for mode in ("start", "speculate")]
        cells += [f"{guess['made'] - guess['used']:.0f} of {guess['made']:.0f}"]
        cells += [f"{100 * guess['guesses_used'] / guess['guesses']:.0f} %" if guess["guesses"] else ""]
        cells += [f"{right} of {rounds}" if rounds else "", f"{100 * numbers.saved(study, workers, 'abandon'):+.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def duration(seconds: float) -> str:
    """Seconds, minutes or hours with three digits."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def name_of(study: tuple[str, str]) -> str:
    """A search with one pruner, in words."""
    search = "the search of `parallel_search.py`" if study[0] == "recorded" else study[0]
    return f"{search}, {'no pruner' if study[1] == 'none' else study[1]}"


# --- sentences -------------------------------------------------------------------------------
def findings(numbers: Numbers) -> list[str]:
    """What the numbers say, one paragraph each."""
    measured = [_measured(numbers)] if "measured" in numbers.data else []
    return measured + [say(numbers) for say in (_scaling, _barrier, _race, _guessing, _safe, _watching)]


def _measured(numbers: Numbers) -> str:
    measured, setup = numbers.data["measured"], numbers.data["recorded"]["setup"]
    ratio, count = measured["summary"]["ratio of search"], measured["summary"]["processes"]
    return (
        f"**Measured.** `parallel_search.py` with {count} processes on {measured['summary']['cores']} cores is "
        f"{ratio['median']:.2f} times as fast as with one (median of {len(measured['runs'])}, {ratio['least']:.2f} to "
        f"{ratio['most']:.2f}); the simulation says {numbers.of(('recorded', 'none'), count)['speedup']:.2f}. It knows "
        f"the barriers, the claims and the {setup:.2f} s before the first training, but not that trainings on one "
        "machine share its memory."
    )


def _scaling(numbers: Numbers) -> str:
    parts = []
    for study in [each for each in numbers.modelled if each[1] == "none"]:
        best = min(numbers.workers, key=lambda n: numbers.of(study, n)["seconds"])
        row, last = numbers.of(study, best), numbers.of(study, numbers.workers[-1])
        parts.append(
            f"{study[0]} ({row['used']:,.0f} evaluations in {row['rounds']} rounds, {row['widest']} at once at most) "
            f"uses 90 % of the time of {numbers.most(study, 0.9)} processes and 80 % of {numbers.most(study, 0.8)}, is "
            f"fastest with {best}: {duration(row['seconds'])} for {duration(numbers.of(study, 1)['seconds'])}, "
            f"{row['speedup']:.0f} times as fast; {last['workers']:,} processes are {last['speedup']:.0f} times as fast"
        )
    return f"**How far it scales, without a pruner.** {'. '.join(parts)}. More than a round has work for cannot help."


def _barrier(numbers: Numbers) -> str:
    parts = []
    for study in [each for each in numbers.modelled if each[1] == "none"]:
        idle = {n: numbers.of(study, n)["shares"]["idle"] for n in numbers.workers}
        over = {limit: [n for n in numbers.workers if idle[n] > limit / 100] for limit in (1, 5, 10)}
        words = ", ".join(f"{limit} % from {found[0]}" for limit, found in over.items() if found)
        worst = max(numbers.workers, key=idle.__getitem__)
        parts.append(f"{study[0]} {words} processes, {100 * idle[worst]:.0f} % at {worst} at the worst")
    return (
        f"**What the barrier at the end of a round costs**, as a share of all processes' time: {'; '.join(parts)}. The "
        "dearest evaluations, those of the earliest blocks, are claimed first, which keeps it small. In round 0, which "
        "trains the head alone, all but as many processes as there are folds wait (column `idle: round 0`)."
    )


def _race(numbers: Numbers) -> str:
    parts = []
    for study in [each for each in numbers.modelled if each[1] == "race"]:
        none, one = (study[0], "none"), numbers.of(study, 1)
        gain = {n: 1 - numbers.of(study, n)["seconds"] / numbers.of(none, n)["seconds"] for n in numbers.workers}
        good = [n for n in numbers.workers if gain[n] > 0]
        slow = next((n for n in numbers.workers if n > max(good)), None)
        parts.append(
            f"in {study[0]} it makes {one['used']:,.0f} of {numbers.of(none, 1)['used']:,.0f} evaluations and saves "
            f"{100 * gain[1]:.0f} % of the time of one process, still {100 * gain[max(good)]:.0f} % at {max(good)}"
            + (f", but takes {-100 * gain[slow]:.0f} % longer than no pruner at {slow}" if slow else "")
        )
    return (
        f"**The race has a barrier after each fold**: {'; '.join(parts)}. It always makes fewer trainings, but "
        "saves time only while a fold of the survivors still fills the processes."
    )


def _guessing(numbers: Numbers) -> str:
    parts = []
    for study in numbers.modelled:
        several = [n for n in numbers.workers if n > 1]
        gain = {n: numbers.saved(study, n, "speculate") for n in several}
        least, most = min(several, key=gain.__getitem__), max(several, key=gain.__getitem__)
        rows = [numbers.of(study, n, "speculate") for n in several]
        made, used = (sum(row[name] for row in rows) for name in ("guesses", "guesses_used"))
        parts.append(
            f"{name_of(study)}: saves {100 * gain[least]:+.0f} % of the time at {least:,} to {100 * gain[most]:+.0f} % "
            f"at {most:,} processes, {100 * used / made:.0f} % of the guesses are of use"
        )
    cases = [(study, n) for study in numbers.modelled for n in numbers.workers if n > 1]
    loses = any(numbers.saved(*case, "speculate") < -0.01 for case in cases)
    verdict = "it should not be on by default" if loses else "it may be on by default"
    abandon = [numbers.saved(*case, "abandon") for case in cases]
    plain = [numbers.saved(*case, "abandon") for case in cases if case[0][1] == "none"]
    return (
        f"**`speculate=True`** ({'; '.join(parts)}). The leader of an unfinished round is often the wrong one: with "
        "many processes the cheap late blocks are known first, and in later rounds candidates differ by less than the "
        "noise. A wrong guess is trained to its end while the decided round waits for the process, and the search ends "
        "only when the last one has; some of what it saves with far more processes than work is that those who train "
        f"do not ask the store. So {verdict}. Were useless trainings abandoned {numbers.stated['look']:g} s after the "
        f"decision (last column; not in the package), it would save {100 * min(abandon):+.1f} to "
        f"{100 * max(abandon):+.1f} % of the time, without a pruner never less than {100 * min(plain):+.1f} %."
    )


def _safe(numbers: Numbers) -> str:
    gains = [(numbers.saved(study, n, "start"), study, n) for study in numbers.modelled for n in numbers.workers]
    (most, study, workers), least = max(gains), min(gains)[0]
    return (
        "**Guessing in round 0 alone** wastes nothing, since its only candidate wins whatever it scores: it saves "
        f"{100 * least:+.1f} to {100 * most:+.1f} % of the time ({name_of(study)}, {workers:,} processes; "
        "column `guess in round 0`). The package does it always since this was simulated."
    )


def _watching(numbers: Numbers) -> str:
    last = numbers.workers[-1]
    saved = {n: [numbers.saved(study, n, "off", 1) for study in numbers.modelled] for n in numbers.workers}
    first = next((n for n in numbers.workers if max(saved[n]) > 0.02), None)
    each = zip(numbers.modelled, saved[last], strict=True)
    words = ", ".join(f"{100 * gain:.0f} % ({name_of(study)})" for study, gain in each)
    return (
        "**Seeing that others live.** In these runs a waiting process asks the store for a sign of life of every other "
        f"one each few seconds; with many, the store answers little else. Of the time of {last:,} processes this costs "
        f"{words}, as against looking at one neighbour, which is what the package does since"
        + (f"; below {first} processes it is under 2 %." if first else ".")
    )


MODEL = """\
The decisions are those of `replay` and `speculate`; around them, the loop of a process, its claims in the order of
what is pending, its pauses of 0.02 to 0.5 s, and its look at the others each 5 s are simulated one by one. `replay` is
called once for each step of a round (a round, or with a race a fold), because until a step is complete the pending
evaluations are those it began with less those that are known; tests compare this with a replay after every evaluation.
`speculate` is asked after each new result while somebody waits.

Stated, not measured: a fold has {train_rows} rows to train and {validation_rows} to score, {epochs} epochs; a forward
pass of one row takes 1 ms (ResNet-152, 50 blocks) or 2 ms (ViT-L, 24 blocks), shared out to the blocks by their
multiplications at 224 pixels; the backward pass costs as much as the forward pass of all blocks from the first tuned
one on, and once more that of the tuned ones; {fixed_seconds:g} s of an evaluation are neither; durations vary by
{jitter:.0%} (log-normal). Scores: the head alone {head}; a block brings a share of what is missing to {top}, {worth} on
the mean with standard deviation {worth_spread} between blocks and correlation {likeness} between neighbours (so
single blocks differ by 0.05 and later candidates by less; 0.09 to 0.13, and 0.01 to 0.04 for pairs with the best one,
in the measured studies beside this folder); {picks} blocks are worth it, each further
one loses {harm}, so that a search has {picks} picks and a round that stops; a fold's score varies by {noise} (the
measured studies: 0.015 to 0.05). Whether a guess is right follows from these scores. {folds} folds, means of {seeds}
seeds. The store answers in {round_trip:g} s and is busy {service:g} s with each question (measured on two busy cores).

Left out: machines that share memory or disk, the time of `replay` itself (10 to 40 ms at 1,000 evaluations), the start
of processes, failures."""


def write_report(data: dict[str, Any], folder: Path) -> None:
    """Write `results.md` and the pictures."""
    numbers = Numbers(data)
    lines = [
        "# A search with 1 to 1,024 processes, simulated",
        "\n`python benchmarks/simulate_search.py`; the numbers are in `results.json`.",
        "\n![Speed-up by the number of processes](scaling.png)\n",
        *("\n" + text for text in findings(numbers)),
        "\n![What processes spend their time on](waiting.png)\n",
        "![What guessing saves](guessing.png)\n",
        "## What was simulated\n",
        MODEL.format(**numbers.stated),
        "\n## Tables\n",
        "Idle: shares of all processes' time without guesses. Guesses: time saved against none. Used and right: of "
        "those after round 0; the first of a round is made by the first process that is idle.",
    ]
    for study in numbers.studies:
        lines += [f"\n### {name_of(study)[0].upper()}{name_of(study)[1:]}\n", *table(numbers, study)]
    (folder / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, draw in (("scaling", draw_scaling), ("waiting", draw_waiting), ("guessing", draw_guessing)):
        save_figure(draw(numbers, theme_of("light")), folder / name)


# --- pictures --------------------------------------------------------------------------------
COLOURS = {"ResNet-152": "#0072b2", "ViT-L": "#d55e00", "recorded": "#1f2328"}
USES = (
    ("used", "trainings that decide", "#0072b2"),
    ("start", "idle in round 0", "#e69f00"),
    ("idle", "idle at the end of a step", "#d55e00"),
    ("narrow", "fewer evaluations than processes", "#c9d1d9"),
    ("late", "claims and pauses", "#59636e"),
)
MARKS = {"none": ("-", "o"), "race": ("--", "s")}


def draw_scaling(numbers: Numbers, theme: Theme) -> Any:
    """Speed-up against processes, both on logarithmic scales."""
    figure, axes = new_figure(4.4, theme, grid="both")
    axes.plot(numbers.workers, numbers.workers, color=theme.muted, lw=1, linestyle=":", label="ideal")
    for study in numbers.studies:
        line, mark = MARKS[study[1]]
        rows = [numbers.of(study, n) for n in numbers.workers]
        speed = [row["speedup"] for row in rows if study in numbers.modelled or row["workers"] <= 4 * row["widest"]]
        label = "parallel_search.py" if study[0] == "recorded" else name_of(study)
        axes.plot(
            numbers.workers[: len(speed)], speed, line, marker=mark, ms=4, color=COLOURS[study[0]], lw=1.8, label=label
        )
    if "measured" in numbers.data:
        summary = numbers.data["measured"]["summary"]
        ratio, count = summary["ratio of search"], summary["processes"]
        error = [[ratio["median"] - ratio["least"]], [ratio["most"] - ratio["median"]]]
        words = f"measured: {ratio['median']:.2f} with {count} processes"
        style: dict[str, Any] = {"color": "#009e73", "markeredgecolor": theme.text, "zorder": 5, "capsize": 4}
        axes.errorbar([count], [ratio["median"]], error, fmt="D", ms=8, label=words, **style)
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_major_locator(FixedLocator(numbers.workers))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("processes", color=theme.muted, fontsize=9)
    axes.set_ylabel("times as fast as one process", color=theme.muted, fontsize=9)
    axes.legend(frameon=False, fontsize=9, handlelength=2.8, labelcolor=theme.text, loc="upper left")
    words = "simulated with the scheduler's own decisions, no guesses"
    return finish(figure, axes, theme, "How a search scales", words)


def draw_waiting(numbers: Numbers, theme: Theme) -> Any:
    """What processes spend their time on: without a pruner, and beside it with a race."""
    figure, axes = new_figure(3.6, theme)
    for shift, pruner in ((-0.21, "none"), (0.21, "race")):
        places = [place + shift for place in range(len(numbers.workers))]
        bottom = [0.0] * len(places)
        for key, words, colour in USES:
            heights = [100 * numbers.of(("ResNet-152", pruner), n)["shares"][key] for n in numbers.workers]
            label = words if pruner == "none" else None
            hatch = "" if pruner == "none" else "////"
            axes.bar(places, heights, 0.38, bottom, color=colour, label=label, hatch=hatch, edgecolor="#ffffff", lw=0)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylim(0, 100)
    _dress(axes, numbers, theme, 3)
    words = "ResNet-152, 50 blocks, 5 folds, share of all processes' time; plain: no pruner, hatched: race"
    return finish(figure, axes, theme, "Where the processes' time goes", words)


def draw_guessing(numbers: Numbers, theme: Theme) -> Any:
    """Time saved by the ways to guess."""
    figure, axes = new_figure(3.4, theme)
    axes.axhline(0, color=theme.muted, lw=1)
    ways = (("start", "in round 0 alone", "#009e73"), ("speculate", "in all rounds (speculate=True)", "#d55e00"))
    for mode, words, colour in (*ways, ("abandon", "in all rounds, useless ones abandoned", "#0072b2")):
        for pruner, (line, mark) in MARKS.items():
            study = ("ResNet-152", pruner)
            gains = [100 * numbers.saved(study, n, mode) for n in numbers.workers]
            label = f"{words}, {'no pruner' if pruner == 'none' else pruner}"
            axes.plot(range(len(gains)), gains, line, marker=mark, ms=4, color=colour, lw=1.8, label=label)
    axes.set_ylabel("time saved", color=theme.muted, fontsize=9)
    _dress(axes, numbers, theme, 2)
    return finish(
        figure, axes, theme, "What guessing saves", "ResNet-152, 50 blocks, 5 folds; below zero it costs time"
    )


def _dress(axes: Any, numbers: Numbers, theme: Theme, columns: int) -> None:
    """Numbers of processes along the axis, per cent up it, and what the colours mean below."""
    axes.set_xticks(range(len(numbers.workers)), [f"{n:,}" for n in numbers.workers], color=theme.text, fontsize=9)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.set_xlabel("processes", color=theme.muted, fontsize=9)
    style: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "handlelength": 2.8, "labelcolor": theme.text}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns, **style)


# --- numbers on disk -------------------------------------------------------------------------
def read_numbers(folder: Path) -> dict[str, Any]:
    """What was simulated before; no rows if nothing was."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}


def write_numbers(data: dict[str, Any], folder: Path) -> None:
    """One line for each row."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data).replace('{"mode"', '\n{"mode"') + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    place = Path(__file__).parent / "results" / "simulation"
    write_report(read_numbers(place), place)
