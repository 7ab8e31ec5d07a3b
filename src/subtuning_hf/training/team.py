"""
Who does which evaluation, in one process or in many.

Processes share a queue that is never written down: every process derives what is pending from what is known, claims
one unit of it under a name, and makes public what came out. A claim is a counter in a store of torch.distributed, so
each unit has one taker; results are a log in the same store, so each process comes to know the same. Nobody waits for
anybody but where nothing is left to claim. Knows no candidates, no files and no models.
"""

from __future__ import annotations

import atexit
import builtins
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from .. import errors
from ..errors import PeerFailedError, PeerLostError, SubTuningError

Result = TypeVar("Result")
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 120.0  # without a beat for so long, a process counts as lost
POLL_SECONDS = 0.02
POLL_SECONDS_AT_MOST = 0.5
ACKNOWLEDGE_SECONDS = 30.0
_FAILED = "failed"


@dataclass
class Solo:
    """A team of one. The interface of [`Team`], without anybody to ask."""

    rank: int = 0
    size: int = 1
    log: list[str] = field(default_factory=list)
    read: int = 0

    is_main = True
    is_local_main = True

    def together(self, work: Callable[[], Result]) -> Result:
        """Do something in all processes at once; an error in one is an error in all."""
        return work()

    def gather(self, value: Any) -> list[Any]:
        """One value of each process, in the order of ranks."""
        return [value]

    def begin(self) -> None:
        """Forget all claims: what follows is other work."""

    def claim(self, keys: Iterable[str]) -> str | None:
        """The first of these units that nobody has taken; from now on it is this process'."""
        return next(iter(keys), None)

    def publish(self, result: str) -> None:
        """Make a result known to all."""
        self.log.append(result)

    def results(self) -> list[str]:
        """What was made public since the last call, own results included."""
        new, self.read = self.log[self.read :], len(self.log)
        return new

    def wait(self) -> None:
        """Let a moment pass."""

    def meet(self) -> None:
        """Wait for the others, however long their work takes."""

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""

    def watcher(self) -> TrainerCallback | None:
        """A callback that ends a training when another process has failed."""
        return None

    def end(self) -> None:
        """Give no more signs of life."""


class Team:
    """
    The processes of a launch. Made by all of them at the same point.

    Args:
        args ([`~transformers.TrainingArguments`]): Made under the launcher, which has started the process group.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self.rank, self.size = args.process_index, args.world_size
        self.is_main, self.is_local_main = self.rank == 0, args.local_process_index == 0
        self._patience = timedelta(seconds=args.ddp_timeout)
        # Objects and barriers go over the CPU, whatever the training uses.
        self._group: Any = dist.new_group(backend="gloo", timeout=self._patience)
        self._store = self._open_store()
        self._taken: set[str] = set()
        self._next = self._meetings = self._generation = 0
        self._ended = threading.Event()
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._beat_store = self._connect(master=False)
        self._beating = threading.Thread(target=self._beat, daemon=True, name="subtuning-heartbeat")
        self._beating.start()
        atexit.register(self.end)  # a thread that speaks with the store while Python goes down may take it along
        self._last_look = self._last_heard = 0.0
        self._pause = POLL_SECONDS

    # --- the store --------------------------------------------------------------------------
    def _open_store(self) -> dist.TCPStore:
        if self.is_main:
            self._host, self._port = _address(), 0
            store = self._connect(master=True)
            self._port = store.port
        place = self.gather((self._host, self._port) if self.is_main else None)[0]
        self._host, self._port = place
        return store if self.is_main else self._connect(master=False)

    def _connect(self, master: bool) -> dist.TCPStore:
        return dist.TCPStore(
            self._host, self._port, is_master=master, wait_for_workers=False, timeout=self._patience
        )

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_SECONDS if count else 0.0):
            count += 1
            try:
                self._beat_store.set(f"beat/{self.rank}", str(count))
            except Exception:  # the store is gone, which the main thread will notice with a better message
                return

    def _ask(self, question: Callable[[dist.TCPStore], Result]) -> Result:
        try:
            return question(self._store)
        except (RuntimeError, ConnectionError) as error:  # torch's own kinds derive from RuntimeError
            raise PeerLostError(
                f"Process {self.rank} lost the connection to process 0: {str(error).splitlines()[0]}. Finished "
                "evaluations are in the journal: start the same again to continue."
            ) from error

    # --- all at once ------------------------------------------------------------------------
    def gather(self, value: Any) -> list[Any]:
        """One value of each process, in the order of ranks; all processes must ask."""
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self._group)
        except RuntimeError as error:
            raise PeerLostError(
                f"Process {self.rank} waited for the others in vain: {str(error).splitlines()[0]}. Finished "
                "evaluations are in the journal: start the same again to continue."
            ) from error
        return values

    def together(self, work: Callable[[], Result]) -> Result:
        """
        Do something in all processes at once.

        Args:
            work (`Callable`): What to do; it must not speak with other processes.

        Returns: what this process' `work` returned, once it has succeeded in all of them.
        Raises: this process' own error; else, if another process had one, its like.
        """
        failure: BaseException | None = None
        result: Any = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        told = self.gather(None if failure is None else describe(self.rank, failure))
        if failure is not None:
            raise failure
        for description in told:
            if description is not None:
                raise revive(description)
        return result

    # --- units of work ----------------------------------------------------------------------
    def begin(self) -> None:
        """Forget all claims: what follows is other work, though it may have the same names. All must call."""
        self._generation += 1
        self._taken.clear()

    def claim(self, keys: Iterable[str]) -> str | None:
        """The first of these units that nobody has taken; from now on it is this process'."""
        self.look()
        for key in keys:
            if key not in self._taken:
                self._taken.add(key)
                name = f"claim/{self._generation}/{key}"
                if self._ask(lambda store, name=name: store.add(name, 1)) == 1:  # type: ignore[misc]
                    self._pause = POLL_SECONDS
                    return key
        return None

    def publish(self, result: str) -> None:
        """Make a result known to all."""
        slot = self._ask(lambda store: store.add("slots", 1)) - 1
        self._ask(lambda store: store.set(f"result/{slot}", result))

    def results(self) -> list[str]:
        """What was made public since the last call, own results included, in the same order for all."""
        found = []
        while self._ask(lambda store: store.check([f"result/{self._next}"])):
            found.append(self._ask(lambda store: store.get(f"result/{self._next}")).decode())
            self._next += 1
        return found

    def wait(self) -> None:
        """Let a moment pass in which others may finish, and see that they live."""
        time.sleep(self._pause)
        # With many processes a short pause would keep the store busy with questions; an evaluation takes longer.
        self._pause = min(1.3 * self._pause, POLL_SECONDS_AT_MOST)
        self.look()
        if time.monotonic() - self._last_heard > BEAT_SECONDS:
            self._last_heard = time.monotonic()
            # One neighbour each: a thousand processes that ask for a thousand beats would be all the store does.
            self._listen((self.rank + 1) % self.size)

    def meet(self) -> None:
        """
        Wait for the others, however long their work takes: a collective would give up after `ddp_timeout`.

        Raises: the error of a process that failed meanwhile; [`PeerLostError`] if one is silent.
        """
        self._meetings += 1
        name = f"meeting/{self._meetings}"
        self._ask(lambda store: store.add(name, 1))
        self._pause = POLL_SECONDS
        while self._ask(lambda store: store.add(name, 0)) < self.size:
            self.wait()
        self._pause = POLL_SECONDS

    def _listen(self, rank: int) -> None:
        now, name = time.monotonic(), f"beat/{rank}"
        beat = self._ask(lambda store: store.get(name)) if self._ask(lambda store: store.check([name])) else b""
        known, since = self._heard.get(rank, (None, now))
        if beat != known:
            self._heard[rank] = (beat, now)
        elif now - since > SILENCE_SECONDS:
            raise PeerLostError(
                f"Process {rank} has given no sign of life for {SILENCE_SECONDS:.0f} s. Finished evaluations are in "
                "the journal: start the same again to continue."
            )

    # --- failures ---------------------------------------------------------------------------
    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends, and give them the time to end with the same words."""
        if isinstance(error, PeerFailedError | PeerLostError) or getattr(error, "from_peer", False):
            return
        mine = json.dumps(describe(self.rank, error))
        try:
            if self._store.compare_set(_FAILED, "", mine).decode() != mine:
                self._store.add("acknowledged", 1)  # another one was first
                return
            # A launcher kills all others as soon as one ends: they could not say why.
            end = time.monotonic() + (ACKNOWLEDGE_SECONDS if isinstance(error, Exception) else 1.0)
            while self._store.add("acknowledged", 0) < self.size - 1 and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
        except Exception:  # there is nobody left to tell
            return

    def look(self) -> None:
        """
        See whether another process has failed.

        Raises: its error, or its like; [`PeerLostError`] if the store is gone.
        """
        self._last_look = time.monotonic()
        if not self._ask(lambda store: store.check([_FAILED])):
            return
        description = json.loads(self._ask(lambda store: store.get(_FAILED)))
        if description["rank"] != self.rank:
            self._ask(lambda store: store.add("acknowledged", 1))
            raise revive(description)

    def watcher(self) -> TrainerCallback:
        """A callback that ends a training when another process has failed."""
        return _Watcher(self)

    def end(self) -> None:
        """Give no more signs of life."""
        self._ended.set()
        self._beating.join(timeout=BEAT_SECONDS)
        atexit.unregister(self.end)


class _Watcher(TrainerCallback):
    """Looks once a second between steps."""

    def __init__(self, team: Team) -> None:
        self.team = team

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() - self.team._last_look > 1.0:
            self.team.look()


def _address() -> str:
    """Where process 0 can be reached: what the launcher told the others, or this very machine."""
    return os.environ.get("MASTER_ADDR") or socket.gethostname()


def describe(rank: int, error: BaseException) -> dict[str, Any]:
    """An error as plain JSON."""
    notes = [str(note) for note in getattr(error, "__notes__", [])]
    return {"rank": rank, "type": type(error).__name__, "message": str(error), "notes": notes}


def revive(description: dict[str, Any]) -> BaseException:
    """An error of another process: of the same kind where that can be made of a text, else a [`PeerFailedError`]."""
    name, text = description["type"], description["message"]
    kind = getattr(errors, name, None) or getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, SubTuningError | KeyboardInterrupt | ValueError | RuntimeError)
    where = f"(in process {description['rank']})"
    error: Any
    try:
        error = kind(f"{text} {where}") if kind is not None and known else PeerFailedError(f"{name}: {text} {where}")
    except Exception:
        error = PeerFailedError(f"{name}: {text} {where}")
    for note in description["notes"]:
        error.add_note(note)
    error.from_peer = True  # not to be told once more
    return error


def make_team(args: TrainingArguments) -> Solo | Team:
    """The processes of this launch."""
    return Team(args) if args.world_size > 1 else Solo()
