"""A busy server refuses, an impatient client harms nobody, metrics add up, and the end answers what waits."""

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from serving.errors import ServeError
from serving.http import GONE, Service, Settings

from recipes_serve.asking import Gate, ask, once, right


@contextmanager
def running(trunk, **settings):
    """A real server on a free port."""
    service = Service(trunk, Settings(**settings))
    server = uvicorn.Server(uvicorn.Config(service.app(), port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield service, server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition):
    """Until something is so."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


async def begun(service, number):
    """Until so many requests wait."""
    while len(service.batcher) < number:
        await asyncio.sleep(0.005)


def test_a_full_queue_refuses_and_answers_the_others(trunk, texts):
    async def scenario(client, service):
        with Gate(service) as gate:
            first = asyncio.ensure_future(client.post("/predict", json=texts.bodies[0]))
            await gate.reached()
            waiting = [asyncio.ensure_future(client.post("/predict", json=body)) for body in texts.bodies[1:4]]
            await begun(service, 3)
            refused = await client.post("/predict", json=texts.bodies[4])
            assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
            assert "3 requests are waiting" in refused.json()["error"]
            assert (await client.get("/health")).status_code == 200
            assert "subtuning_queue_length 3" in (await client.get("/metrics")).text
        replies = await asyncio.gather(first, *waiting)
        assert all(right(reply, texts, number, texts.adapters) for number, reply in enumerate(replies))

    ask(trunk, scenario, max_queue=3, max_batch=1, max_wait=0.0)


def test_a_request_that_takes_too_long_is_not_run(trunk, texts):
    async def scenario(client, service):
        with Gate(service) as gate:
            started = asyncio.ensure_future(client.post("/predict", json=texts.bodies[0]))
            await gate.reached()
            late = asyncio.ensure_future(client.post("/predict", json=texts.bodies[1]))
            replies = await asyncio.gather(started, late)
        assert [reply.status_code for reply in replies] == [504, 504] and "within 0.3 s" in replies[0].json()["error"]
        assert right(await client.post("/predict", json=texts.bodies[2]), texts, 2, texts.adapters)
        assert service.metrics.rows == 2  # that which was in a batch already, and the last

    ask(trunk, scenario, timeout=0.3, max_batch=1, max_wait=0.0)


def test_a_client_that_leaves_harms_nobody(trunk, texts):
    with running(trunk, max_wait=0.0, max_batch=1) as (service, _server, port):
        with Gate(service):
            body = json.dumps(texts.bodies[0]).encode()
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
            for client in clients:
                client.sendall(head.encode() + b"\r\n\r\n" + body)
            wait_for(lambda: len(service.batcher) == 2)
            for client in clients:
                client.close()
            wait_for(lambda: service.metrics.requests["task-0", GONE] == 3)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert right(client.post("/predict", json=texts.bodies[5]), texts, 5, texts.adapters)
        assert service.metrics.rows == 2  # the one that ran already, and the last


def test_the_end_answers_what_waits(trunk, texts):
    with running(trunk, max_wait=0.0, max_batch=2) as (service, server, port):
        replies = {}

        def post(number):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
                replies[number] = client.post("/predict", json=texts.bodies[number])

        threads = [threading.Thread(target=post, args=(number,)) for number in range(6)]
        with Gate(service):
            for thread in threads:
                thread.start()
            wait_for(lambda: len(service.batcher) >= 4)  # and a batch of at most two
            server.should_exit = True
            wait_for(lambda: not server.servers[0].is_serving())
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", port))
            assert replies == {}
        for thread in threads:
            thread.join(30)
    assert all(right(replies[number], texts, number, texts.adapters) for number in range(6))
    assert not service.batcher.running


def test_health(trunk):
    async def scenario(client, service):
        assert (await client.get("/health")).json() == {"ready": True, "tasks": 4}
        service.batcher.close(20)
        reply = await client.get("/health")
        assert reply.status_code == 503 and reply.json()["ready"] is False
        assert (await client.post("/predict", json={"text": "w1"})).status_code == 503

    ask(trunk, scenario)


# --- metrics --------------------------------------------------------------------------------
def read(text):
    """Values by name with labels; every line must be one that Prometheus reads."""
    found, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            kinds |= {name: rest} if word == "TYPE" else {}
        else:
            name, value = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z]+="[^"]*",?)+\})?) (\S+)', line).groups()
            assert name not in found
            found[name] = float(value)
    assert all(re.sub(r"_(bucket|sum|count)$", "", name.partition("{")[0]) in kinds or name in kinds for name in found
               if not name.startswith("subtuning_requests_total"))  # fmt: skip
    return found


def test_metrics_add_up(trunk, texts):
    async def scenario(client, _service):
        for number, tasks in enumerate((["task-0"], ["task-0", "task-1"], ["task-1"])):
            await client.post("/predict", json={**texts.bodies[number], "tasks": tasks})
        for name in ("made-up-1", 'made-up-2"\n'):
            await client.post("/predict", json={"text": "w1", "tasks": [name]})
        await client.post("/predict", json={"text": 3})
        return (await client.get("/metrics")).text

    text = ask(trunk, scenario)
    found = read(text)
    asked = {name: value for name, value in found.items() if name.startswith("subtuning_requests_total")}
    assert asked == {
        'subtuning_requests_total{task="",status="400"}': 1,
        'subtuning_requests_total{task="",status="404"}': 2,
        'subtuning_requests_total{task="task-0",status="200"}': 2,
        'subtuning_requests_total{task="task-1",status="200"}': 2,
    }
    assert found["subtuning_rows_total"] == 3 and found["subtuning_answers_total"] == 4
    assert found["subtuning_batch_rows_count"] == found["subtuning_batch_rows_sum"] == 3
    assert found["subtuning_request_seconds_count"] == found['subtuning_request_seconds_bucket{le="+Inf"}'] == 6
    assert found["subtuning_tasks"] == 4 and found["subtuning_queue_length"] == 0
    buckets = [value for name, value in found.items() if name.startswith("subtuning_request_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert "made-up" not in text


# --- what is not there, and what fails ------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("GET", "/tasks/task-0", 405),
        ("POST", "/health", 405),
        ("GET", "/", 404),
        ("GET", "/favicon.ico", 404),
        ("PUT", "/tasks/a/b", 404),
        ("GET", "/%ED%A0%80" + "x" * 5000, 404),
    ],
)
def test_other_addresses_and_methods_are_refused(trunk, method, path, status):
    reply = once(trunk, method, path)
    message = reply.json()["error"]
    assert reply.status_code == status and list(reply.json()) == ["error"]
    assert ("allow" in reply.headers) == (status == 405)
    assert "POST /predict" in message and "DELETE /tasks/{name}" in message and len(message) < 400
    assert f"found '{method} /" in message


def test_a_failure_that_nobody_foresaw_is_told_as_json(trunk, texts, capsys):
    def fails(_content):
        raise RuntimeError("a secret")

    with running(trunk) as (service, _server, port), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk.inputs, "prepare", fails)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            reply = client.post("/predict", json=texts.bodies[0])
            assert reply.status_code == 500 and list(reply.json()) == ["error"]
            assert "RuntimeError" in reply.json()["error"] and "secret" not in reply.json()["error"]
            patch.undo()
            assert right(client.post("/predict", json=texts.bodies[1]), texts, 1, texts.adapters)
        assert service.metrics.requests["task-0", 500] == 1
    assert "a secret" in capsys.readouterr().err  # for who runs the server


def test_an_error_that_is_no_text_is_told_too(trunk, texts):
    def refuses(_content):
        raise ServeError("found \ud800", 422)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk.inputs, "prepare", refuses)
        reply = once(trunk, "POST", "/predict", json=texts.bodies[0])
    assert reply.status_code == 422 and reply.json() == {"error": "found ?"}
