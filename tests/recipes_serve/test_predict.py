"""Predictions are those of each adapter alone, whoever else is in the batch; bad requests harm only themselves."""

import asyncio
import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from serving.errors import ServeError
from serving.trunk import Question, Trunk

from recipes_serve.asking import ask, once, right
from subtuning_hf.cli.predict_inputs import read_inputs
from subtuning_hf.cli.recipe_inputs import ToInputs


@pytest.fixture(scope="module")
def image_trunk(images):
    return Trunk.load(images.base, images.adapters, "cpu")


def mixed(problem):
    """Every input with one, two, three ... tasks."""
    names = list(problem.adapters)
    return [(number, names[: 1 + number % len(names)][::-1]) for number in range(len(problem.bodies))]


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_requests_that_run_together_are_answered_as_alone(kind, request):
    problem = request.getfixturevalue(kind)

    async def scenario(client, service):
        load = mixed(problem)
        send = (client.post("/predict", json={**problem.bodies[number], "tasks": tasks}) for number, tasks in load)
        replies = await asyncio.gather(*send)
        assert all(right(reply, problem, *asked) for reply, asked in zip(replies, load, strict=True))
        metrics = service.metrics
        assert metrics.rows == len(load) and metrics.answers == sum(len(tasks) for _, tasks in load)
        assert sum(metrics.batches.counts) < len(load)  # some did run together

    ask(Trunk.load(problem.base, problem.adapters, "cpu"), scenario, max_wait=0.2)


def test_all_tasks_where_none_is_named_and_only_the_likeliest_labels(trunk, texts):
    reply = once(trunk, "POST", "/predict", json=texts.bodies[3])
    assert right(reply, texts, 3, texts.adapters)
    few = once(trunk, "POST", "/predict", json={**texts.bodies[3], "top": 2}).json()["answers"]
    for task, answer in reply.json()["answers"].items():
        shares = [one["probability"] for one in answer["probabilities"]]
        assert shares == sorted(shares, reverse=True) and abs(sum(shares) - 1) < 1e-5
        assert answer["label"] == answer["probabilities"][0]["label"] and len(shares) == len(texts.labels[task])
        assert [one["label"] for one in few[task]["probabilities"]] == [
            one["label"] for one in answer["probabilities"][:2]
        ]


def test_an_image_in_every_form(image_trunk, images):
    file, tasks = base64.b64decode(images.bodies[1]["image"]), ["task-0", "task-2"]
    forms = [
        {"json": {**images.bodies[1], "tasks": tasks}},
        {"json": {"image": f"data:image/png;base64,{images.bodies[1]['image']}", "tasks": tasks}},
        {"files": {"image": ("a.png", file, "image/png")}, "data": {"tasks": tasks}},
        {"files": {"image": ("a.png", file, "image/png")}, "data": {"tasks": "task-0,task-2", "top": "9"}},
        {"content": file, "headers": {"Content-Type": "image/png"}, "params": {"tasks": "task-0,task-2"}},
        {"content": file, "headers": {"Content-Type": "application/octet-stream"}, "params": {"tasks": tasks}},
    ]
    assert all(right(once(image_trunk, "POST", "/predict", **form), images, 1, tasks) for form in forms)


def test_a_text_in_every_form(trunk, texts):
    text = texts.bodies[2]["text"]
    forms = [
        {"json": {"text": text, "tasks": ["task-1"]}},
        {"files": {"text": (None, text), "tasks": (None, "task-1")}},
        {"content": text, "headers": {"Content-Type": "text/plain; charset=utf-8"}, "params": {"tasks": "task-1"}},
    ]
    assert all(right(once(trunk, "POST", "/predict", **form), texts, 2, ["task-1"]) for form in forms)


def test_a_text_longer_than_the_model_can_take_is_cut_off(trunk, texts):
    long = " ".join(f"w{n % 400}" for n in range(1000))
    cut = " ".join(f"w{n % 400}" for n in range(126))  # and two special tokens
    found, wanted = (once(trunk, "POST", "/predict", json={"text": text}).json() for text in (long, cut))
    assert found == wanted and "answers" in found


def deep():
    """A picture of 16 bits."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (40, 60), dtype=np.uint16))


def turned():
    """A picture as a phone stores it that was held upright."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    image.getexif()[0x0112] = 6
    return image


def clear():
    """A picture that is partly transparent."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8))


@pytest.mark.parametrize("picture", [deep, turned, clear])
def test_an_image_is_read_as_subtuning_predict_reads_it(picture, image_trunk, tmp_path):
    image = picture()
    image.save(tmp_path / "a.png", exif=image.getexif())
    to_inputs = ToInputs(image_trunk.inputs.processor, "image", "label", "none")
    wanted = to_inputs({"image": list(read_inputs([str(tmp_path / "a.png")], text=False).rows["image"])})
    found = image_trunk.inputs.prepare((tmp_path / "a.png").read_bytes())
    assert torch.equal(found["pixel_values"], torch.as_tensor(wanted["pixel_values"][0]))
    assert found["pixel_values"].unique().numel() > 50  # not all white


# --- bad requests ---------------------------------------------------------------------------
def json_of(body):
    """A request with this JSON."""
    return {"content": body, "headers": {"Content-Type": "application/json"}}


def form_in(charset, name, value):
    """A request with a form of one field in this charset."""
    body = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x--\r\n' % (name.encode(), value)
    return {"content": body, "headers": {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}}


BAD = {
    "no json": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "Expected JSON"),
    "no object": ({"json": ["text"]}, 400, "Expected a JSON object"),
    "nothing": ({"json": {}}, 400, "either `text` or `image`, found neither"),
    "both": ({"json": {"text": "a", "image": "YQ=="}}, 400, "found both"),
    "unknown key": ({"json": {"text": "a", "task": "task-0"}}, 400, "found 'task'"),
    "number": ({"json": {"text": 3}}, 400, "a string for `text`"),
    "task as a word": ({"json": {"text": "a", "tasks": "task-0"}}, 400, "Expected a list of names"),
    "no tasks": ({"json": {"text": "a", "tasks": []}}, 400, "Expected a list of names"),
    "top": ({"json": {"text": "a", "top": 0}}, 400, "whole number from 1"),
    "half a character": (json_of(rb'{"text": "\ud800 film"}'), 400, "half of a surrogate pair"),
    "half of it in bytes": (json_of(b'{"text": "\xed\xa0\x80 film"}'), 400, "half of a surrogate pair"),
    "half in a form": (form_in("utf-7", "text", b"+2AA- film"), 400, "half of a surrogate pair"),
    "half as an image": (form_in("utf-7", "image", b"+2AA-"), 400, "half of a surrogate pair"),
    "half in a task": (json_of(rb'{"text": "a", "tasks": ["\ud800"]}'), 404, r"No such task: '\ud800'"),
    "half in a key": (json_of(rb'{"text": "a", "\udfff": 1}'), 400, r"found '\udfff'"),
    "half in base64": (json_of(rb'{"image": "\ud800"}'), 400, "base64"),
    "base64": ({"json": {"image": "***"}}, 400, "base64"),
    "unknown task": ({"json": {"text": "a", "tasks": ["task-0", "none"]}}, 404, "No such task: 'none'"),
    "image for texts": ({"json": {"image": "YQ=="}}, 422, "takes texts"),
    "too long": ({"json": {"text": "a" * 5000}}, 413, "at most 4,096 bytes"),
    "content type": ({"content": b"a", "headers": {"Content-Type": "video/mp4"}}, 415, "found 'video/mp4'"),
    "no utf-8": ({"content": b"\xff", "headers": {"Content-Type": "text/plain"}}, 400, "UTF-8"),
    "form": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "form cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_told_why(name, trunk):
    form, status, message = BAD[name]

    async def scenario(client, service):
        reply = await client.post("/predict", **form)
        assert reply.status_code == status and message in reply.json()["error"]
        assert service.metrics.rows == 0  # it did not reach the model

    ask(trunk, scenario, max_bytes=4096)


def test_bad_images_harm_only_themselves(image_trunk, images):
    huge = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(huge, format="PNG")
    below = io.BytesIO()
    Image.new("F", (8, 8), -1.0).save(below, format="TIFF")
    whole = base64.b64decode(images.bodies[0]["image"])
    bad = {b"no image": 422, whole[: len(whole) // 2]: 422, b"": 422, huge.getvalue(): 413, below.getvalue(): 422}

    async def scenario(client, _service):
        send = [client.post("/predict", json=body) for body in images.bodies]
        spoilt = [client.post("/predict", content=one, headers={"Content-Type": "image/png"}) for one in bad]
        replies = await asyncio.gather(*send, *spoilt)
        good = replies[: len(send)]
        assert all(right(reply, images, number, images.adapters) for number, reply in enumerate(good))
        assert [reply.status_code for reply in replies[len(send) :]] == list(bad.values())
        assert all(reply.json()["error"] for reply in replies[len(send) :])
        assert "found -1 to -1 in mode F" in replies[-1].json()["error"]

    ask(image_trunk, scenario, max_wait=0.2)


def test_an_input_that_the_model_fails_at_harms_no_other(trunk, texts):
    rows = [trunk.inputs.prepare(body["text"]) for body in texts.bodies[:3]]
    poison = {**rows[1], "input_ids": [10_000] * len(rows[1]["input_ids"])}  # no such word
    first, second, third = trunk.answer([Question(rows[0]), Question(poison), Question(rows[2], ("task-2",))])
    assert isinstance(second, ServeError) and second.status == 500
    for answers, number in ((first, 0), (third, 2)):
        for task, answer in answers.items():
            wanted = texts.wanted[task][number].tolist()
            assert answer.probabilities == pytest.approx(wanted, abs=1e-4) and list(answer.labels) == texts.labels[task]
    assert set(first) == set(texts.adapters) and set(third) == {"task-2"}
