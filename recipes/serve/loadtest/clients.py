"""
Clients that ask for mixed tasks and compare every answer, while adapters come and go.

Knows HTTP and what must come back; does not know models.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch

from .problem import Problem

Reply = tuple[int, dict[str, Any]]  # status, and answers by task
Send = Callable[[int, tuple[str, ...]], Coroutine[Any, Any, Reply]]


@dataclass
class Outcome:
    """
    What came of a load.

    Args:
        seconds (`float`): It took.
        latencies (`list[float]`): Of each request, in seconds.
        answers (`int`): Compared and right.
        statuses (`Counter`): Of the requests.
        wrong (`list[str]`): What was wrong.
        changes (`int`): Adapters that were added, replaced or removed meanwhile.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    changes: int = 0


def make_load(tasks: Sequence[str], inputs: int, count: int, most: int, seed: int) -> list[tuple[int, tuple[str, ...]]]:
    """
    Requests: a number of an input, and tasks.

    Args:
        tasks (`Sequence[str]`): To choose from.
        inputs (`int`): Number of inputs.
        count (`int`): How many requests.
        most (`int`): Most tasks in one.
        seed (`int`): The same load for the same seed.
    """
    chance = random.Random(seed)
    sizes = range(1, min(most, len(tasks)) + 1)
    return [(chance.randrange(inputs), tuple(chance.sample(tasks, chance.choice(sizes)))) for _ in range(count)]


# --- sending --------------------------------------------------------------------------------
def to_one(client: httpx.AsyncClient, url: str, problem: Problem) -> Send:
    """Requests go to one server as they are."""

    async def send(number: int, tasks: tuple[str, ...]) -> Reply:
        reply = await client.post(f"{url}/predict", json={**problem.bodies[number], "tasks": list(tasks)})
        return reply.status_code, reply.json().get("answers", {})

    return send


def to_many(client: httpx.AsyncClient, urls: Mapping[str, str], problem: Problem) -> Send:
    """A request goes to the servers of its tasks at once, and is answered when all have answered."""

    async def send(number: int, tasks: tuple[str, ...]) -> Reply:
        replies = await asyncio.gather(*(to_one(client, urls[task], problem)(number, (task,)) for task in tasks))
        answers = {task: answer for _, found in replies for task, answer in found.items()}
        return max(status for status, _ in replies), answers

    return send


# --- adapters that come and go --------------------------------------------------------------
@dataclass
class Churn:
    """
    A task that is removed and added again, and one that is given another adapter and its own again.

    Args:
        client (`httpx.AsyncClient`), url (`str`): To ask.
        leaving (`str`): Task that comes and goes.
        swapped (`str`): Task that changes.
        other (`str`): Adapter that it changes to.
        pause (`float`): Seconds between changes.
    """

    client: httpx.AsyncClient
    url: str
    leaving: str
    swapped: str
    other: str
    pause: float = 0.05
    here: bool = True
    epoch: int = 0  # odd while something is changing
    changes: int = 0
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        """Until stopped, and then to the end of the round, which leaves everything as it was."""
        while not self.stopped:
            await self._change("DELETE", self.leaving, None, 204)
            self.here = False
            await self._change("PUT", self.swapped, self.other, 200)
            await self._change("PUT", self.leaving, self.leaving, 201)
            self.here = True
            await self._change("PUT", self.swapped, self.swapped, 200)

    async def _change(self, method: str, task: str, adapter: str | None, wanted: int) -> None:
        await asyncio.sleep(self.pause)
        self.epoch += 1
        body = None if adapter is None else {"adapter": adapter}
        reply = await self.client.request(method, f"{self.url}/tasks/{task}", json=body)
        self.epoch += 1
        self.changes += 1
        if reply.status_code != wanted:
            self.failed.append(f"{method} {task}: {reply.status_code} {reply.text[:200]}")

    def allowed(self, tasks: Sequence[str], before: tuple[int, bool], after: tuple[int, bool]) -> set[int]:
        """Statuses that are right for a request, given what was known when it was sent and when it came back."""
        if self.leaving not in tasks:
            return {200}
        if before != after or before[0] % 2:
            return {200, 404}
        return {200} if before[1] else {404}

    @property
    def state(self) -> tuple[int, bool]:
        """When it is, and whether the task that leaves is there."""
        return self.epoch, self.here

    def adapters_of(self, task: str) -> tuple[str, ...]:
        """Adapters that may answer for a task."""
        return (task, self.other) if task == self.swapped else (task,)


# --- the load -------------------------------------------------------------------------------
async def run_load(
    send: Send,
    problem: Problem,
    load: Sequence[tuple[int, tuple[str, ...]]],
    clients: int,
    tolerance: float,
    churn: Churn | None = None,
) -> Outcome:
    """
    Send a load.

    Args:
        send (`Send`): How.
        problem ([`Problem`]): With what must come back.
        load (`Sequence[tuple[int, tuple[str, ...]]]`): From [`make_load`].
        clients (`int`): How many send at a time, each its next request when the last is answered.
        tolerance (`float`): Greatest difference of a probability.
        churn ([`Churn`], *optional*): Changes tasks meanwhile.

    Returns: [`Outcome`]
    """
    outcome, requests = Outcome(), iter(load)
    changing = asyncio.create_task(churn.run()) if churn is not None else None
    started = time.perf_counter()
    await asyncio.gather(*(_client(send, problem, requests, tolerance, churn, outcome) for _ in range(clients)))
    outcome.seconds = time.perf_counter() - started
    if changing is not None and churn is not None:
        churn.stopped = True
        await changing
        outcome.changes, outcome.wrong = churn.changes, outcome.wrong + churn.failed
    return outcome


async def _client(
    send: Send,
    problem: Problem,
    requests: Iterator[tuple[int, tuple[str, ...]]],
    tolerance: float,
    churn: Churn | None,
    outcome: Outcome,
) -> None:
    for number, tasks in requests:
        before, started = churn.state if churn is not None else (0, True), time.perf_counter()
        status, answers = await send(number, tasks)
        outcome.latencies.append(time.perf_counter() - started)
        outcome.statuses[status] += 1
        allowed = churn.allowed(tasks, before, churn.state) if churn is not None else {200}
        if status not in allowed:
            outcome.wrong.append(f"input {number}, {tasks}: status {status}, expected {sorted(allowed)}")
        elif status == 200:
            if set(answers) != set(tasks):
                outcome.wrong.append(f"input {number}: answers of {sorted(answers)}, expected {sorted(tasks)}")
            for task, answer in answers.items():
                adapters = churn.adapters_of(task) if churn is not None else (task,)
                if not any(is_right(answer, problem, adapter, number, tolerance) for adapter in adapters):
                    outcome.wrong.append(f"input {number}, task {task}: {answer}")
                else:
                    outcome.answers += 1


def is_right(answer: Mapping[str, Any], problem: Problem, adapter: str, number: int, tolerance: float) -> bool:
    """
    Whether an answer is that of an adapter alone.

    Args:
        answer (`Mapping[str, Any]`): Of one task, with all labels.
        problem ([`Problem`]), adapter (`str`), number (`int`): What it must be.
        tolerance (`float`): Greatest difference of a probability.
    """
    found = {one["label"]: one["probability"] for one in answer["probabilities"]}
    labels, wanted = problem.labels[adapter], problem.wanted[adapter][number]
    if set(found) != set(labels):
        return False
    off = torch.tensor([found[label] for label in labels]) - wanted
    likeliest = float(wanted.max() - wanted[list(labels).index(answer["label"])])
    return float(off.abs().max()) <= tolerance and likeliest <= 2 * tolerance
