"""
The addresses of the server: predictions, tasks, health and metrics.

Knows HTTP, the queue and the trunk; does not know models. The event loop reads and writes; decoding and tokenizing run
in threads of their own, and the model in that of the batches.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from .adapters import check_name, locate
from .batcher import Batcher
from .bodies import Asked, asked_of, parse_json, parse_json_question, read_body, read_form, tasks_of, top_of
from .errors import ServeError
from .metrics import Metrics
from .trunk import Answer, Answers, Question, Trunk

GONE = 499  # the client closed the connection: for metrics only, nobody reads the answer


@dataclass(frozen=True)
class Settings:
    """
    How a server answers.

    Args:
        adapters (`Path`, *optional*): The only folder that requests may load adapters from, beside the Hub.
        max_batch (`int`), max_wait (`float`), max_queue (`int`): See [`Batcher`]; `max_queue` also bounds requests that
            are being read.
        timeout (`float`): Seconds in which a request must be answered.
        max_bytes (`int`): Longest body.
        admin_token (`str`, *optional*): What who adds or removes tasks must bring.
        admin_open (`bool`): Whether everybody may where there is no token.
    """

    adapters: Path | None = None
    max_batch: int = 32
    max_wait: float = 0.005
    max_queue: int = 512
    timeout: float = 30.0
    max_bytes: int = 16 * 1024 * 1024
    admin_token: str | None = None
    admin_open: bool = True


class Service:
    """
    A trunk, its queue, and what answers requests.

    Args:
        trunk ([`Trunk`]): With its tasks.
        settings ([`Settings`], *optional*): By default those of [`Settings`].
    """

    def __init__(self, trunk: Trunk, settings: Settings | None = None) -> None:
        self.trunk, self.settings = trunk, settings or Settings()
        self.metrics = Metrics()
        s = self.settings
        self.batcher = Batcher(self._answer, s.max_batch, s.max_wait, s.max_queue)
        self._pool = ThreadPoolExecutor(trunk.inputs.threads, thread_name_prefix="inputs")
        self._arriving = 0  # being read or prepared; touched by the event loop only

    def _answer(self, questions: Sequence[Question]) -> Sequence[Answers | Exception]:
        started, answers = time.perf_counter(), self.trunk.answer(questions)
        given = sum(len(answer) for answer in answers if not isinstance(answer, Exception))
        self.metrics.batch(len(questions), given, time.perf_counter() - started)
        return answers

    def app(self) -> FastAPI:
        """The application; its lifespan starts the queue, and empties it at the end."""

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            self.batcher.start()
            yield
            await asyncio.to_thread(self.batcher.close)
            self._pool.shutdown(wait=False)

        app = FastAPI(title="Many tasks on one trunk", lifespan=lifespan)
        app.add_api_route("/predict", self.predict, methods=["POST"])
        app.add_api_route("/tasks", self.list_tasks, methods=["GET"])
        app.add_api_route("/tasks/{name}", self.put_task, methods=["PUT"])
        app.add_api_route("/tasks/{name}", self.delete_task, methods=["DELETE"])
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.show_metrics, methods=["GET"])
        app.add_exception_handler(ServeError, _refused)
        app.add_exception_handler(HTTPException, _not_served)
        app.add_exception_handler(Exception, _failed)  # which is raised again afterwards, so that the log has it
        return app

    # --- predictions --------------------------------------------------------------------------
    async def predict(self, request: Request) -> Response:
        """Labels with probabilities, by task."""
        started, status = time.perf_counter(), 500
        about: list[str] = []
        try:
            async with asyncio.timeout(self.settings.timeout):
                response = await self._predict(request, about)
            status = response.status_code
            return response
        except TimeoutError:
            status = 504
            raise ServeError(f"Not answered within {self.settings.timeout:g} s. Try again later.", 504) from None
        except ServeError as error:
            status = error.status
            raise
        finally:
            self.metrics.request(about, status, time.perf_counter() - started)

    async def _predict(self, request: Request, about: list[str]) -> Response:
        """Enters the names of the tasks into `about` as soon as they are known."""
        if self._arriving + len(self.batcher) >= self.settings.max_queue:
            raise ServeError(f"{self.settings.max_queue} requests are waiting already. Try again shortly.", 503)
        self._arriving += 1
        try:
            asked = await self._read(request)
            about += self.trunk.named(asked.tasks)
            row = await self._apart(self.trunk.inputs.prepare, asked.content)
        finally:
            self._arriving -= 1
        answers = await self._unless_gone(request, self.batcher.submit(Question(row, asked.tasks)))
        if answers is None:
            return Response(status_code=GONE)
        about[:] = answers
        return JSONResponse({"answers": {task: shown(answer, asked.top) for task, answer in answers.items()}})

    async def _read(self, request: Request) -> Asked:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        body = await read_body(request, self.settings.max_bytes)
        if kind == "application/json":
            return await self._apart(parse_json_question, body)
        if kind == "multipart/form-data":
            return asked_of(await read_form(request, body))
        query = request.query_params
        tasks = tasks_of([name for value in query.getlist("tasks") for name in value.split(",")] or None)
        if kind.startswith("image/") or kind == "application/octet-stream":
            return Asked(body, tasks, top_of(query.get("top")))
        if kind == "text/plain":
            try:
                return Asked(body.decode(), tasks, top_of(query.get("top")))
            except UnicodeDecodeError:
                raise ServeError("Expected a text in UTF-8, found other bytes.") from None
        raise ServeError(
            f"Expected JSON, a form (multipart/form-data), an image or text/plain, found {kind[:80]!r}.", 415
        )

    async def _apart(self, function: Any, *args: Any) -> Any:
        """Run something in the threads for inputs."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def _unless_gone(self, request: Request, future: Any) -> Answers | None:
        """The answer, or `None` if the client leaves first; then it is not run either, unless it runs already."""
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(request.receive())  # the body is read: what comes next is the end
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            gone.cancel()
            answer.cancel()

    # --- tasks --------------------------------------------------------------------------------
    async def list_tasks(self) -> Response:
        """Names, labels and own modules."""
        tasks = self.trunk.tasks
        return JSONResponse(
            {
                "tasks": {
                    name: {"adapter": task.adapter, "labels": task.labels, "modules": task.modules}
                    for name, task in tasks.items()
                },
                "base": self.trunk.name,
                "takes": self.trunk.inputs.kind,
            }
        )

    async def put_task(self, name: str, request: Request) -> Response:
        """Add a task, or give it another adapter."""
        self._check_admin(request)
        fields = parse_json(await read_body(request, 64 * 1024))
        adapter = fields.get("adapter")
        if list(fields) != ["adapter"] or not isinstance(adapter, str):
            raise ServeError('Expected {"adapter": "FOLDER_OR_HUB_NAME"}.')
        new = await asyncio.to_thread(self._add, check_name(name), adapter)
        task = self.trunk.tasks.get(name)
        return JSONResponse({"task": name, "labels": task.labels if task else []}, 201 if new else 200)

    def _add(self, name: str, adapter: str) -> bool:
        return self.trunk.add(name, locate(adapter, self.settings.adapters), adapter)

    async def delete_task(self, name: str, request: Request) -> Response:
        """Remove a task."""
        self._check_admin(request)
        await asyncio.to_thread(self.trunk.remove, name)
        return Response(status_code=204)

    def _check_admin(self, request: Request) -> None:
        token = self.settings.admin_token
        if token is None:
            if not self.settings.admin_open:
                raise ServeError("Tasks cannot be changed here: start the server with --admin-token.", 403)
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.encode("latin-1"), token.encode()):
            raise ServeError("Expected the header `Authorization: Bearer TOKEN` with the admin token.", 401)

    # --- looking ------------------------------------------------------------------------------
    async def health(self) -> Response:
        """200 when questions are answered."""
        ready = self.batcher.running
        return JSONResponse({"ready": ready, "tasks": len(self.trunk.tasks)}, 200 if ready else 503)

    async def show_metrics(self) -> Response:
        """For Prometheus."""
        now = {"queue_length": len(self.batcher), "arriving": self._arriving, "tasks": len(self.trunk.tasks)}
        return PlainTextResponse(self.metrics.text(now), media_type="text/plain; version=0.0.4")


def shown(answer: Answer, top: int | None) -> dict[str, Any]:
    """
    An answer as JSON: the likeliest label, and labels with their probabilities, the likeliest first.

    Args:
        answer ([`Answer`]): Of one task.
        top (`int`, *optional*): Most labels.
    """
    shares = answer.probabilities
    order = sorted(range(len(shares)), key=lambda index: -shares[index])[:top]
    found = [{"label": answer.labels[index], "probability": shares[index]} for index in order]
    return {"label": found[0]["label"], "probabilities": found}


async def _refused(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status", 500)
    headers = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    return _error(str(error), status, headers)


async def _not_served(request: Request, error: Exception) -> Response:
    """What Starlette refuses: addresses and methods that are not there."""
    status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
    if status not in (404, 405):
        return _error(str(getattr(error, "detail", error)), status, headers)
    here = [
        f"{method} {getattr(route, 'path', '')}"
        for route in request.app.routes
        if getattr(route, "include_in_schema", False)
        for method in sorted(getattr(route, "methods", None) or ())
    ]
    asked = f"{request.method} {request.url.path}"[:100]
    return _error(f"Expected one of {', '.join(here)}, found {asked!r}.", status, headers)


async def _failed(_request: Request, error: Exception) -> Response:
    message = f"The server failed at this request ({type(error).__name__}); its log says how."
    return _error(message, 500, {"Connection": "close"})  # uvicorn closes it when the error reaches it


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    message = message.encode("utf-8", "replace").decode()  # of foreign files, it may not be text
    return JSONResponse({"error": message}, status, headers)
