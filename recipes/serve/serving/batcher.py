"""
Collects requests that arrive together, and has one thread answer them.

Knows a bounded queue, time and a function from many questions to as many answers; does not know models or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .errors import ServeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """
    A question in the queue.

    Args:
        question (`Any`): As the function takes it.
        future (`concurrent.futures.Future`): Gets the answer; one that is cancelled is not run.
        since (`float`): When it came, in seconds of `time.monotonic`.
    """

    question: Any
    future: Future = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """
    One thread that answers batches.

    Args:
        answer (`Callable`): Questions to an answer or an exception for each, in order.
        max_batch (`int`, *optional*, defaults to 32): Most questions at a time.
        max_wait (`float`, *optional*, defaults to 0.005): Seconds for which the first one waits for others.
        max_queue (`int`, *optional*, defaults to 512): Most questions that wait.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 512,
    ) -> None:
        if max_batch < 1 or max_queue < 1 or max_wait < 0:
            raise ServeError(
                "Expected at least 1 for the batch and for the queue and no negative wait, "
                f"found {max_batch}, {max_queue} and {max_wait}."
            )
        self.answer, self.max_batch, self.max_wait, self.max_queue = answer, max_batch, max_wait, max_queue
        self._queue: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> bool:
        """Whether questions are taken and answered."""
        return self._thread.is_alive() and not self._closed

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, question: Any) -> Future:
        """
        Put a question into the queue.

        Args:
            question (`Any`): As the function takes it.

        Raises: [`ServeError`]: If the queue is full, or the server ends.
        """
        with self._changed:
            if self._closed:
                raise ServeError("The server is shutting down. Ask another one.", 503)
            if len(self._queue) >= self.max_queue:
                raise ServeError(f"{self.max_queue} requests are waiting already. Try again shortly.", 503)
            waiting = Waiting(question)
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self, timeout: float | None = None) -> bool:
        """
        Take no more questions, and answer those that wait.

        Args:
            timeout (`float`, *optional*): Most seconds to wait for that.

        Returns: `bool`: Whether all were answered.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive() and not self._queue

    # --- the thread ---------------------------------------------------------------------------
    def _work(self) -> None:
        while batch := self._take():
            live = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if live:
                self._run(live)

    def _take(self) -> list[Waiting]:
        """The next batch; an empty one at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            until = self._queue[0].since + self.max_wait if self._queue else 0.0
            while len(self._queue) < self.max_batch and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._queue.popleft() for _ in range(min(self.max_batch, len(self._queue)))]

    def _run(self, live: Sequence[Waiting]) -> None:
        try:
            answers = self.answer([waiting.question for waiting in live])
            if len(answers) != len(live):
                raise RuntimeError(f"{len(live)} questions got {len(answers)} answers")
        except Exception as error:  # the thread outlives whatever happens in a batch
            logger.exception("A batch failed")
            answers = [error] * len(live)
        for waiting, answer in zip(live, answers, strict=True):
            if isinstance(answer, BaseException):
                waiting.future.set_exception(answer)
            else:
                waiting.future.set_result(answer)
