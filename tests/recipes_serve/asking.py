"""A server in this process, asked without a network."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
from loadtest.clients import is_right
from serving.http import Service, Settings

URL = "http://server"


class Gate:
    """
    Holds the thread of a service at its next batch until the gate opens; a context that opens it at the end.

    Args:
        service (`Service`): Running or about to.
    """

    def __init__(self, service: Service) -> None:
        self.answer, self.begun, self.opened = service.batcher.answer, threading.Event(), threading.Event()
        service.batcher.answer = self

    def __call__(self, questions: Any) -> Any:
        self.begun.set()
        assert self.opened.wait(20)
        return self.answer(questions)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.opened.set()

    async def reached(self) -> None:
        """Until a batch is held."""
        assert await asyncio.to_thread(self.begun.wait, 20)


def ask(trunk: Any, scenario: Any, **settings: Any) -> Any:
    """What a scenario, given a client and the service, returns while a server runs."""

    async def run() -> Any:
        service = Service(trunk, Settings(**settings))
        app = service.app()
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=URL) as client:
            return await scenario(client, service)

    return asyncio.run(run())


def once(trunk: Any, method: str, path: str, adapters: Any = None, **request: Any) -> httpx.Response:
    """The reply to one request, where adapters may be loaded from a folder."""

    async def scenario(client: httpx.AsyncClient, _service: Service) -> httpx.Response:
        return await client.request(method, path, **request)

    return ask(trunk, scenario, adapters=adapters)


def right(reply: httpx.Response, problem: Any, number: int, tasks: Any) -> bool:
    """Whether a reply holds the answers of each of these adapters alone, and no others."""
    answers = reply.json().get("answers", {})
    return (
        reply.status_code == 200
        and set(answers) == set(tasks)
        and all(is_right(answers[task], problem, task, number, 1e-4) for task in tasks)
    )
