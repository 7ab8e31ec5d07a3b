"""
Load the server on loopback and compare every answer with that of the adapter alone.

    OMP_NUM_THREADS=1 python recipes/serve/load_test.py --output out/load
    OMP_NUM_THREADS=1 python recipes/serve/load_test.py --output out/load --separate --repeats 5

First adapters are added, replaced and removed under load; then throughput and latency are measured without that. With
`--separate` the same load also goes to one server for each task, on the same cores, in rotating order. Models and
adapters are made here if none are given. Writes `load.json` and `load.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from loadtest.clients import Churn, Outcome, Send, make_load, run_load, to_many, to_one
from loadtest.problem import MODELS, Problem, make_adapters, make_base, make_problem
from loadtest.servers import Server, serving
from transformers.utils import logging

from subtuning_hf.errors import ArgumentsError, SubTuningError


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description="Load the server, and compare every answer.")
    found.add_argument("--output", type=Path, required=True, help="folder for models made here, logs and results")
    found.add_argument("--model", choices=MODELS, default="tiny-text", help="what to make (tiny-text)")
    found.add_argument("--base", help="instead of making one: folder or name on the Hub")
    found.add_argument("--adapters", type=Path, help="folder of adapters for --base")
    found.add_argument("--kind", choices=("text", "image"), help="inputs of --base")
    found.add_argument("--tasks", type=int, default=8, help="adapters to make (8)")
    found.add_argument("--inputs", type=int, default=64, help="different inputs (64)")
    found.add_argument("--requests", type=int, default=1000, help="in each run (1000)")
    found.add_argument("--clients", type=int, default=16, help="that send at a time (16)")
    found.add_argument("--most-tasks", type=int, default=3, help="in one request (3)")
    found.add_argument("--repeats", type=int, default=3, help="of the measurement (3)")
    found.add_argument("--separate", action="store_true", help="also measure one server for each task")
    found.add_argument("--cores", type=int, help="for the servers of a mode together; by default half of them")
    found.add_argument("--max-batch", type=int, default=32, help="of the servers (32)")
    found.add_argument("--max-wait-ms", type=float, default=5.0, help="of the servers (5)")
    found.add_argument("--tolerance", type=float, default=1e-4, help="greatest difference of a probability (1e-4)")
    return found


def prepare(options: argparse.Namespace) -> Problem:
    """
    Models, adapters, inputs and answers.

    Raises: [`ArgumentsError`]: If options contradict each other.
    """
    given = [options.base, options.adapters, options.kind]
    if any(given) and not all(given):
        raise ArgumentsError("Expected --base, --adapters and --kind together, found only some of them.")
    if options.base:
        adapters = {folder.name: folder for folder in sorted(options.adapters.resolve().iterdir()) if folder.is_dir()}
        base, kind = options.base, options.kind
    else:
        folder = options.output.resolve() / "models"
        model = make_base(folder / "base", options.model)
        adapters = make_adapters(folder / "adapters", model, options.tasks)
        base, kind = str(folder / "base"), MODELS[options.model][0]
    if len(adapters) < 3:
        raise ArgumentsError(
            f"Expected at least 3 adapters, of which one leaves and one changes, found {len(adapters)}."
        )
    return make_problem(base, adapters, kind, options.inputs, options.tolerance)


@dataclass
class Bench:
    """
    Servers, and what was measured with them.

    Args:
        options (`argparse.Namespace`): As given.
        problem ([`Problem`]): What to ask.
        client (`httpx.AsyncClient`): Of all requests.
    """

    options: argparse.Namespace
    problem: Problem
    client: httpx.AsyncClient

    def start(self, stack: ExitStack) -> dict[str, dict[str, Server]]:
        """The servers of each mode by task, stopped with the stack."""
        o, p = self.options, self.problem
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        most = o.cores or max(1, (os.cpu_count() or 1) // 2)
        on = cores[-most:] if cores else None
        if cores and len(cores) > most:
            os.sched_setaffinity(0, cores[:-most])  # clients and servers do not share cores where there are enough
        settings = {"cores": on, "max_batch": o.max_batch, "max_wait_ms": o.max_wait_ms}
        root = next(iter(p.adapters.values())).parent
        log = o.output / "shared.log"
        one = stack.enter_context(serving(p.base, p.adapters, log, root=root, threads=most, **settings))
        modes = {"shared": dict.fromkeys(p.adapters, one)}
        if o.separate:
            threads = max(1, most // len(p.adapters))
            modes["separate"] = {
                name: stack.enter_context(
                    serving(p.base, {name: folder}, o.output / f"separate-{name}.log", threads=threads, **settings)
                )
                for name, folder in p.adapters.items()
            }
        return modes

    def send(self, mode: str, servers: dict[str, Server]) -> Send:
        """How requests go to a mode's servers."""
        if mode == "shared":
            return to_one(self.client, next(iter(servers.values())).url, self.problem)
        return to_many(self.client, {task: server.url for task, server in servers.items()}, self.problem)

    async def run(self, send: Send, seed: int, churn: Churn | None = None) -> Outcome:
        """One load."""
        o = self.options
        load = make_load(list(self.problem.adapters), len(self.problem.bodies), o.requests, o.most_tasks, seed)
        return await run_load(send, self.problem, load, o.clients, o.tolerance, churn)

    async def change(self, servers: dict[str, Server]) -> Outcome:
        """A load while adapters come and go."""
        *_, other, swapped, leaving = self.problem.adapters
        url = next(iter(servers.values())).url
        return await self.run(self.send("shared", servers), 0, Churn(self.client, url, leaving, swapped, other))


async def measure(options: argparse.Namespace, problem: Problem) -> dict[str, Any]:
    """
    Everything.

    Args:
        options (`argparse.Namespace`): As given.
        problem ([`Problem`]): What to ask.

    Returns: `dict[str, Any]`: As it is written.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with ExitStack() as stack:
        async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
            bench = Bench(options, problem, client)
            modes = bench.start(stack)
            changed = await bench.change(modes["shared"])
            runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
            for mode, servers in modes.items():  # connections, caches and allocators warm up outside of the measurement
                await bench.run(bench.send(mode, servers), 1)
            for repeat in range(options.repeats):
                names = list(modes)
                turn = repeat % len(names)
                for mode in names[turn:] + names[:turn]:
                    outcome = await bench.run(bench.send(mode, modes[mode]), 2 + repeat)
                    runs[mode].append(summary(outcome))
                    print(f"{mode}: {json.dumps(runs[mode][-1])}", flush=True)
            memory = {mode: sum(one.memory() for one in set_of(servers)) for mode, servers in modes.items()}
    found = {"setting": setting(options, problem), "changing": {**summary(changed), "changes": changed.changes}}
    return {**found, "runs": runs, "memory_mib": memory}


def set_of(servers: dict[str, Server]) -> list[Server]:
    """Each server once."""
    return list({server.url: server for server in servers.values()}.values())


def summary(outcome: Outcome) -> dict[str, Any]:
    """A load as numbers; times in milliseconds."""
    cuts = statistics.quantiles(outcome.latencies, n=100, method="inclusive")
    return {
        "requests_per_s": round(len(outcome.latencies) / outcome.seconds, 2),
        "answers_per_s": round(outcome.answers / outcome.seconds, 2),
        **{f"p{n}_ms": round(1000 * cuts[n - 1], 2) for n in (50, 90, 99)},
        "answers": outcome.answers,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "wrong": len(outcome.wrong),
        "first_wrong": outcome.wrong[:5],
    }


def setting(options: argparse.Namespace, problem: Problem) -> dict[str, Any]:
    """What was run, and where."""
    names = ("tasks", "inputs", "requests", "clients", "most_tasks", "repeats", "max_batch", "max_wait_ms", "tolerance")
    model = options.base or options.model
    chosen = {name: getattr(options, name) for name in names} | {"model": model, "tasks": len(problem.adapters)}
    cores = options.cores or max(1, (os.cpu_count() or 1) // 2)
    versions = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    return {**chosen, "cores_of_the_servers": cores, "cores": os.cpu_count(), **versions}


# --- the report -----------------------------------------------------------------------------
def table(found: dict[str, Any]) -> str:
    """The results as a short page."""
    s, changing = found["setting"], found["changing"]
    kinds = ("answers_per_s", "requests_per_s", "p50_ms", "p90_ms", "p99_ms")
    lines = ["| servers | answers/s | requests/s | p50, ms | p90, ms | p99, ms | MiB |", "|---" * 7 + "|"]
    for mode, runs in found["runs"].items():
        cells = [spread([run[kind] for run in runs]) for kind in kinds]
        lines.append(f"| {mode} | {' | '.join(cells)} | {found['memory_mib'][mode]:.0f} |")
    runs = found["runs"]
    if "separate" in runs:
        pairs = zip(runs["shared"], runs["separate"], strict=True)
        ratio = spread([one["answers_per_s"] / other["answers_per_s"] for one, other in pairs])
        lines += ["", f"Answers per second, one server over one for each task: {ratio}."]
    wrong = changing["wrong"] + sum(run["wrong"] for of_mode in runs.values() for run in of_mode)
    compared = changing["answers"] + sum(run["answers"] for of_mode in runs.values() for run in of_mode)
    head = (
        f"{s['model']}, {s['tasks']} tasks, 1 to {s['most_tasks']} in a request, {s['clients']} clients, "
        f"{s['requests']} requests in a run, {s['repeats']} runs; all servers of a line on "
        f"{s['cores_of_the_servers']} of {s['cores']} cores. Median (least to greatest)."
    )
    tail = (
        f"Compared with each adapter alone: {compared + wrong:,} answers, {wrong} wrong. In the first load "
        f"{changing['changes']} adapters were added, replaced or removed meanwhile: {changing['answers_per_s']:.0f} "
        f"answers/s, p99 {changing['p99_ms']:.0f} ms, statuses {changing['statuses']}."
    )
    return "\n".join([head, "", *lines, "", tail, ""])


def spread(values: Sequence[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main(words: Sequence[str] | None = None) -> int:
    """Prepare, measure, write; 1 if an answer was wrong."""
    options = parser().parse_args(words)
    options.output.mkdir(parents=True, exist_ok=True)
    logging.set_verbosity_error()  # heads of other sizes are meant
    logging.disable_progress_bar()
    try:
        problem = prepare(options)
    except (SubTuningError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = asyncio.run(measure(options, problem))
    (options.output / "load.json").write_text(json.dumps(found, indent=2) + "\n")
    page = table(found)
    (options.output / "load.md").write_text(page)
    print(page)
    runs = [found["changing"], *(run for of_mode in found["runs"].values() for run in of_mode)]
    return 1 if any(run["wrong"] for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
