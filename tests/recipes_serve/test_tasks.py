"""Tasks come and go while requests run; what may be loaded, by whom, and what is refused."""

import asyncio
import json
import shutil

import pytest
import torch
from loadtest.clients import Churn, make_load, run_load, to_one
from safetensors.torch import load_file, save_file
from serving.adapters import fetched, locate
from serving.errors import ServeError
from serving.trunk import Trunk, _first_line

from recipes_serve.asking import URL, Gate, ask, once, right


@pytest.fixture
def root(texts, tmp_path):
    """A folder of adapters for this test alone."""
    folder = tmp_path / "adapters"
    shutil.copytree(next(iter(texts.adapters.values())).parent, folder)
    return folder


def damaged(folder, change):
    """An adapter with other weights in its file."""
    file = folder / "adapter_model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file, {"format": "pt"})


# --- hot add and remove ---------------------------------------------------------------------
def test_tasks_come_and_go_while_requests_run(own_trunk, texts, root):
    async def scenario(client, service):
        load = make_load(list(texts.adapters), len(texts.bodies), 250, 3, seed=5)
        churn = Churn(client, URL, "task-3", "task-2", "task-1", pause=0.0)
        outcome = await run_load(to_one(client, URL, texts), texts, load, 8, 1e-4, churn)
        assert outcome.wrong == [] and outcome.changes >= 4 and outcome.answers > 100
        assert set(outcome.statuses) <= {200, 404} and outcome.statuses[200] > 50
        for number, body in enumerate(texts.bodies):  # all is as it was
            assert right(await client.post("/predict", json=body), texts, number, texts.adapters)
        return service.trunk

    trunk = ask(own_trunk, scenario, adapters=root)
    assert len(trunk.model.tasks) == len(trunk.tasks)  # no adapter stays behind


def test_a_task_that_is_added_is_answered_and_one_that_is_removed_is_not(own_trunk, texts, root):
    async def scenario(client, _service):
        body = texts.bodies[0]
        assert (await client.put("/tasks/new", json={"adapter": "task-1"})).status_code == 201
        reply = await client.post("/predict", json={**body, "tasks": ["new", "task-1"]})
        answers = reply.json()["answers"]
        assert answers["new"] == answers["task-1"]
        assert list((await client.get("/tasks")).json()["tasks"]) == [*texts.adapters, "new"]
        assert (await client.delete("/tasks/new")).status_code == 204
        assert (await client.delete("/tasks/new")).status_code == 404
        gone = await client.post("/predict", json={**body, "tasks": ["new"]})
        assert gone.status_code == 404 and "No such task: 'new'. There are: task-0" in gone.json()["error"]
        assert right(await client.post("/predict", json=body), texts, 0, texts.adapters)

    ask(own_trunk, scenario, adapters=root)


def test_a_task_can_be_given_another_adapter(own_trunk, texts, root):
    async def scenario(client, _service):
        before = (await client.get("/tasks")).json()["tasks"]["task-0"]
        reply = await client.put("/tasks/task-0", json={"adapter": "task-3"})
        assert reply.status_code == 200 and reply.json()["labels"] == texts.labels["task-3"] != before["labels"]
        answers = (await client.post("/predict", json=texts.bodies[4])).json()["answers"]
        assert answers["task-0"] == answers["task-3"]

    ask(own_trunk, scenario, adapters=root)


def test_a_question_for_a_task_that_goes_while_it_waits(own_trunk, texts):
    async def scenario(client, service):
        with Gate(service) as gate:
            one = asyncio.ensure_future(client.post("/predict", json={**texts.bodies[0], "tasks": ["task-1"]}))
            every = asyncio.ensure_future(client.post("/predict", json=texts.bodies[1]))
            await gate.reached()
            assert (await client.delete("/tasks/task-1")).status_code == 204
        assert (await one).status_code == 404
        assert right(await every, texts, 1, set(texts.adapters) - {"task-1"})

    ask(own_trunk, scenario, max_wait=0.2)


def test_the_last_task_may_go(own_trunk, texts, root):
    async def scenario(client, _service):
        for name in texts.adapters:
            assert (await client.delete(f"/tasks/{name}")).status_code == 204
        reply = await client.post("/predict", json=texts.bodies[0])
        assert reply.status_code == 404 and "none; add one with PUT" in reply.json()["error"]
        assert (await client.put("/tasks/task-2", json={"adapter": "task-2"})).status_code == 201
        assert right(await client.post("/predict", json=texts.bodies[0]), texts, 0, ["task-2"])

    ask(own_trunk, scenario, adapters=root)


# --- what may be loaded ---------------------------------------------------------------------
STRANGE = ["\ud800", "\udc80", "x" * 5000, "x/" * 2500, "a\0b", "loop", "./loop/task-0"]


@pytest.mark.parametrize("name", ["..", "../adapters/task-0", "../outside", "/etc", "", ".", "link", "none", *STRANGE])
def test_only_adapters_in_the_folder(root, name):
    shutil.copytree(root / "task-0", root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to(root / "loop")
    if name == "../adapters/task-0":  # a way around that leads back inside is inside
        assert locate(name, root) == (root / "task-0").resolve()
        return
    with pytest.raises(ServeError, match="inside of the server's folder"):
        locate(name, root)


@pytest.mark.parametrize("name", [*STRANGE, f"user/{'x' * 5000}"])
def test_strange_names_are_refused_over_http(trunk, root, name):
    body = json.dumps({"adapter": name}).encode()  # in ASCII, with escapes
    reply = once(trunk, "PUT", "/tasks/new", content=body, adapters=root)
    assert reply.status_code == 422 and 0 < len(reply.json()["error"]) < 1500


def test_a_name_on_disk_that_is_no_text_is_refused(root):
    name = b"\x80".decode(errors="surrogateescape")
    shutil.copytree(root / "task-0", root / name)
    with pytest.raises(ServeError, match="inside of the server's folder"):  # it could not be listed with the tasks
        locate(name, root)


def test_the_absolute_name_of_a_folder_outside_is_refused(root):
    shutil.copytree(root / "task-0", root.parent / "outside")
    with pytest.raises(ServeError, match="inside of the server's folder"):
        locate(str(root.parent / "outside"), root)


def test_a_file_that_is_a_link_out_of_the_folder_is_refused(root):
    file = root / "task-0" / "adapter_model.safetensors"
    file.rename(root.parent / "weights")
    file.symlink_to(root.parent / "weights")
    with pytest.raises(ServeError, match="link out of the folder"):
        locate("task-0", root)


def test_a_name_on_the_hub_is_not_looked_for_in_the_working_directory(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    with pytest.raises(ServeError, match="cannot be had from the Hub"):
        locate("adapters/task-0", None)


def test_pickled_weights_are_not_loaded(root, monkeypatch):
    (root / "task-0" / "adapter_model.safetensors").rename(root / "task-0" / "adapter_model.bin")
    with pytest.raises(ServeError, match=r"no adapter_model\.safetensors"):
        locate("task-0", root)
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **given: asked.update(given) or str(root / "task-1")
    )
    assert fetched("user/adapter") == root / "task-1" and asked["revision"] is None
    assert locate("user/adapter@refs/pr/1", None) == root / "task-1" and asked["revision"] == "refs/pr/1"
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


@pytest.mark.parametrize("name", ["a b", ".hidden", "x" * 65, "a%231", "ä"])
def test_names_that_a_task_cannot_have(trunk, root, name):
    async def scenario(client, service):
        reply = await client.put(f"/tasks/{name}", json={"adapter": "task-0"})
        assert reply.status_code == 400 and "Expected a task name" in reply.json()["error"]
        assert list(service.trunk.tasks) == ["task-0", "task-1", "task-2", "task-3"]

    ask(trunk, scenario, adapters=root)


@pytest.mark.parametrize("body", [{}, {"adapter": 3}, {"adapter": "task-0", "more": 1}, [], "task-0"])
def test_what_a_request_to_add_must_say(trunk, body):
    assert once(trunk, "PUT", "/tasks/new", json=body).status_code == 400


# --- adapters that cannot be served ---------------------------------------------------------
def test_a_damaged_adapter_is_refused_and_the_others_are_answered_as_before(own_trunk, texts, root):
    damaged(root / "task-0", lambda tensor: torch.full_like(tensor, float("nan")))
    damaged(root / "task-1", lambda tensor: tensor.flatten()[:1].clone())
    (root / "task-2" / "adapter_config.json").write_text("{")

    async def scenario(client, service):
        way = service.trunk.model.way
        messages = []
        for name in ("task-0", "task-1", "task-2"):
            reply = await client.put("/tasks/new", json={"adapter": name})
            assert reply.status_code == 422
            messages.append(reply.json()["error"])
        assert "NaN" in messages[0] and all("cannot be used" in one for one in messages)
        assert right(await client.post("/predict", json=texts.bodies[0]), texts, 0, texts.adapters)
        assert service.trunk.model.way == way and len(service.trunk.model.tasks) == len(texts.adapters)

    ask(own_trunk, scenario, adapters=root)


def test_an_adapter_for_inputs_of_another_kind_is_refused(own_trunk, root, images):
    (root / "task-0" / "preprocessing.json").write_text('{"text": true, "max_length": 16}')
    (root / "task-1" / "preprocessing.json").write_text('{"text": false}')
    (root / "task-2" / "preprocessing.json").write_text('{"text": true, "max_length": 128}')  # as here
    with pytest.raises(ServeError, match="inputs made in another way"):
        own_trunk.add("new", root / "task-0")
    with pytest.raises(ServeError, match="adapter is for images"):
        own_trunk.add("new", root / "task-1")
    with pytest.raises(ServeError, match="cannot be used"):
        own_trunk.add("new", images.adapters["task-0"])
    assert own_trunk.add("new", root / "task-2")


def test_the_first_adapter_says_how_inputs_are_made(texts, root):
    (root / "task-0" / "preprocessing.json").write_text('{"text": true, "max_length": 16}')
    trunk = Trunk.load(texts.base, {"task-0": root / "task-0"}, "cpu")
    assert len(trunk.inputs.prepare("w1 " * 30)["input_ids"]) == 16
    with pytest.raises(ServeError, match="inputs made in another way"):
        trunk.add("task-1", root / "task-1")


@pytest.mark.parametrize("kind", ["NOPE", "IA3", "lora", None, ["LORA"]])
def test_an_adapter_of_another_kind_is_told_what_was_expected(own_trunk, root, kind):
    file = root / "task-0" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "peft_type": kind}))
    reply = once(own_trunk, "PUT", "/tasks/new", json={"adapter": "task-0"}, adapters=root)
    message = reply.json()["error"]
    assert reply.status_code == 422 and "expected the `peft_type` SUBTUNING or LORA" in message
    assert message.endswith(f"found {str(kind)!r}.")


def test_a_bare_key_is_no_message():
    assert _first_line(KeyError("NOPE")) == "'NOPE' is unknown here, or missing"
    assert _first_line(ValueError("one\ntwo")) == "one" and _first_line(ValueError()) == "ValueError"


# --- who may --------------------------------------------------------------------------------
@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Basic secret", "Bearer sécret"])
def test_changes_need_the_token(trunk, root, header):
    headers = [] if header is None else [(b"Authorization", header.encode())]

    async def scenario(client, service):
        for method, path in (("PUT", "/tasks/new"), ("DELETE", "/tasks/task-0")):
            reply = await client.request(method, path, headers=headers, json={"adapter": "task-0"})
            assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"
        assert list(service.trunk.tasks) == ["task-0", "task-1", "task-2", "task-3"]
        assert (await client.get("/tasks")).status_code == 200

    ask(trunk, scenario, adapters=root, admin_token="secret")


def test_the_token_opens(own_trunk, root):
    headers = {"Authorization": "Bearer secret"}

    async def scenario(client, _service):
        added = await client.put("/tasks/new", headers=headers, json={"adapter": "task-0"})
        return added.status_code, (await client.delete("/tasks/new", headers=headers)).status_code

    assert ask(own_trunk, scenario, adapters=root, admin_token="secret") == (201, 204)


def test_without_a_token_only_this_machine_may_change_tasks(trunk, root):
    async def scenario(client, _service):
        return (await client.delete("/tasks/task-0")).status_code

    assert ask(trunk, scenario, adapters=root, admin_open=False) == 403
