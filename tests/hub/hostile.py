"""
Hostile adapters: a sound one, and by name what somebody might make of it.

Each case changes a copy of a sound adapter's folder in place. What a case plants would, if it ran, write `CANARY`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CANARY = "it-ran"
CASES: dict[str, Callable[[Path], None]] = {}
# Nothing in them is read or run by loading, so the adapter is loaded and answers as ever.
HARMLESS = {
    "a pickle beside the weights",
    "a card with a YAML bomb",
    "a training_args.bin that is a pickle",
    "a later PEFT's field that holds nothing",
    "a module in the folder",
}
# What PEFT's own reader of the type meets first; it fails in words of its own there.
PEFT_FIRST = {
    "no JSON",
    "half a JSON",
    "an empty config",
    "a JSON list",
    "JSON nested 100,000 deep",
    "5,000 digits",
    "bytes that are no text",
    "no type",
    "a task that nobody knows",
    "17 MB of config",
    "the type of another method",
    "a type that is a list",
    "a type that nobody knows",
    "a config that is a folder",
    "a config that is a pipe",
    "a config that links to itself",
}


def case(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def enter(make: Callable[[Path], None]) -> Callable[[Path], None]:
        assert name not in CASES
        CASES[name] = make
        return make

    return enter


class Runs:
    """Unpickled, it writes the canary."""

    def __init__(self, folder: Path) -> None:
        self.target = str(folder.parent / CANARY)

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.target}'",)


def code(folder: Path) -> str:
    """A module that writes the canary when it is imported."""
    return f"open({str(folder.parent / CANARY)!r}, 'w').close()\nclass Evil: pass\n"


# --- the configuration -----------------------------------------------------------------------
def _text(name: str, content: str | bytes) -> None:
    def make(folder: Path) -> None:
        (folder / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())

    case(name)(make)


def _fields(name: str, **fields: Any) -> None:
    def make(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **fields}))

    case(name)(make)


def _replaced(name: str, old: str, new: str) -> None:
    def make(folder: Path) -> None:
        text = (folder / CONFIG).read_text()
        assert old in text
        (folder / CONFIG).write_text(text.replace(old, new, 1))

    case(name)(make)


_text("no JSON", "peft_type: SUBTUNING")
_text("half a JSON", '{"peft_type": "SUBTUNING", ')
_text("an empty config", "")
_text("a JSON list", '["peft_type"]')
_text("JSON nested 100,000 deep", '{"peft_type": ' + "[" * 100_000 + "]" * 100_000 + "}")
_text("bytes that are no text", b'{"peft_type": "SUBTUNING", "blocks": ["\xff\xfe"]}')
_text("17 MB of config", '{"peft_type": "SUBTUNING", "blocks": [' + '"a",' * 4_300_000 + '"a"]}')
_text("no type", '{"blocks": []}')
_replaced("a key that is said twice", '"num_labels": 3', '"num_labels": 4, "num_labels": 3')
_replaced("5,000 digits", '"num_labels": 3', '"num_labels": ' + "9" * 5000)
_replaced("NaN in JSON", '"num_labels": 3', '"num_labels": NaN')
_replaced("infinity in JSON", '"num_labels": 3', '"num_labels": Infinity')
_replaced("half a character", '"dark"', '"\\ud800"')
_fields("a type that nobody knows", peft_type="EVIL")
_fields("a type that is a list", peft_type=["SUBTUNING"])
_fields("the type of another method", peft_type="LORA")
_fields("an unknown field", hook="os.system")
_fields("a runtime configuration", runtime_config={"a": 1})
_fields("a later PEFT's field that holds nothing", later=None)
_fields("a billion labels", num_labels=10**9, id2label=None, label2id=None)
_fields("a billion labels, none named", num_labels=10**9, id2label={}, label2id={})
_fields("an index that is no number", id2label={"a": "x"})
_fields("an index in two ways", id2label={"0": "a", "00": "b", "1": "c", "2": "d"}, label2id=None)
_fields("names that are no texts", id2label={"0": [["x"]], "1": {}, "2": 1}, label2id=None)
_fields("labels that contradict themselves", label2id={"dark": 2, "light": 1, "red": 0})
_fields("an escape sequence in a label", id2label={"0": "\x1b[2J", "1": "b", "2": "c"}, label2id=None)
_fields("a block out of the folder", blocks=["../../etc/passwd"])
_fields("a block with an absolute path", blocks=["/etc/passwd"])
_fields("a block that is an attribute", blocks=["__class__"])
_fields("a block by pattern", blocks=["*"])
_fields("a block by number", blocks=[0])
_fields("a hundred thousand blocks", blocks=[f"a.b{i}" for i in range(100_000)])
_fields("a block with 100,000 dots", blocks=["a." * 100_000])
_fields("blocks that are one text", blocks="resnet")
_fields("no blocks at all", blocks=None)
_fields("a head out of the folder", head=["../head"])
_fields("a head that is missing", head=["classifier.7"])
_fields("modules to save that are nowhere", modules_to_save=["../../x"])
_fields("a base that is no name", base_model_name_or_path={"path": "/"})
_fields("a base with a zero byte", base_model_name_or_path="lab/\0base")
_fields("a revision that is no name", revision=["main"])
_fields("a task that nobody knows", task_type="EVIL")
_fields("an automatic mapping that is a text", auto_mapping="os.system")
_fields("a mapping to nothing", auto_mapping={"parent_library": "transformers"})
_fields("a class by another's attribute", auto_mapping={"base_model_class": "os.system", "parent_library": "os"})
_fields("a class of Python itself", auto_mapping={"base_model_class": "__loader__", "parent_library": "transformers"})
_fields("a library by a path", auto_mapping={"base_model_class": "Evil", "parent_library": "../planted"})
_fields("a relative library", auto_mapping={"base_model_class": "Evil", "parent_library": ".planted"})
_fields("a module without models", auto_mapping={"base_model_class": "os", "parent_library": "transformers.utils"})
# PEFT refuses to import this one where it would; a base of one's own is loaded without looking at it.
_fields("a planted library", auto_mapping={"base_model_class": "Evil", "parent_library": "planted"})
HARMLESS |= {"a planted library"}


@case("a config that links out of the folder")
def _(folder: Path) -> None:
    shutil.move(folder / CONFIG, folder.parent / "elsewhere.json")
    (folder / CONFIG).symlink_to("../elsewhere.json")


@case("a config that links to itself")
def _(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder / CONFIG).symlink_to(CONFIG)


@case("a config that is a folder")
def _(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()


@case("a config that is a pipe")
def _(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)


# --- the weights -----------------------------------------------------------------------------
def raw(folder: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    """Write weights by hand."""
    length = len(header) if length is None else length
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + header + data)


def taken_apart(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Table of contents and data of the weights."""
    content = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _table(name: str) -> Callable[[Callable[[dict[str, Any], str], Any]], None]:
    """A case that changes the table of contents; the change is given the table and the name of a block's tensor."""

    def enter(change: Callable[[dict[str, Any], str], Any]) -> None:
        def make(folder: Path) -> None:
            table, data = taken_apart(folder)
            key = next(key for key in table if "subtuning_blocks" in key and key.endswith("convolution.weight"))
            done = change(table, key)
            raw(folder, done if isinstance(done, bytes) else json.dumps(table).encode(), data)

        case(name)(make)

    return enter


def _tensors(name: str) -> Callable[[Callable[[dict[str, torch.Tensor], str], Any]], None]:
    """A case that changes tensors; the change is given them and the name of a block's."""

    def enter(change: Callable[[dict[str, torch.Tensor], str], Any]) -> None:
        def make(folder: Path) -> None:
            tensors = load_file(folder / WEIGHTS)
            key = next(key for key in tensors if "subtuning_blocks" in key and key.endswith("convolution.weight"))
            change(tensors, key)
            save_file(tensors, folder / WEIGHTS)

        case(name)(make)

    return enter


def _head(tensors: dict[str, Any]) -> str:
    return next(key for key in tensors if "classifier" in key and key.endswith("weight"))


_table("tensors that overlap")(lambda t, k: t[_head(t)].update(data_offsets=t[k]["data_offsets"]))
_table("an offset behind the end")(lambda t, k: t[k].update(data_offsets=[0, 2**40]))
_table("an offset below zero")(lambda t, k: t[k].update(data_offsets=[-4, 0]))
_table("a shape of 2**63")(lambda t, k: t[k].update(shape=[2**63, 2**63]))
_table("a shape below zero")(lambda t, k: t[k].update(shape=[-1, -1]))
_table("a shape that is a text")(lambda t, k: t[k].update(shape="4"))
_table("a shape that its bytes do not have")(lambda t, k: t[k].update(shape=[10**9]))
_table("an unknown dtype")(lambda t, k: t[k].update(dtype="PICKLE"))
_table("an unknown word on a tensor")(lambda t, k: t[k].update(load="os.system"))
_table("a tensor that is a list")(lambda t, k: t.update({k: [1, 2]}))
_table("a hole between tensors")(lambda t, k: t.pop(k))
_table("metadata that are no texts")(lambda t, k: t.update(__metadata__={"a": {"b": 1}}))
_table("a table of contents that is a list")(lambda t, k: b"[" + json.dumps(t).encode() + b"]")
_table("a table of contents nested deeply")(lambda t, k: b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
_table("a table of contents that is no text")(lambda t, k: b"\xff" * 100)
_table("a tensor that is told twice")(
    lambda t, k: b"{" + json.dumps(k).encode() + b":" + json.dumps(t[k]).encode() + b"," + json.dumps(t).encode()[1:]
)
_tensors("NaN in a block")(lambda t, k: t[k].view(-1)[0].fill_(float("nan")))
_tensors("infinity in the head")(lambda t, k: t[_head(t)].view(-1)[-1].fill_(float("inf")))
_tensors("whole numbers for weights")(lambda t, k: t.update({k: t[k].long()}))
_tensors("truth values for weights")(lambda t, k: t.update({k: t[k] > 0}))
_tensors("complex weights")(lambda t, k: t.update({k: t[k].to(torch.complex64)}))
_tensors("a tensor too many")(lambda t, k: t.update({"base_model.model.resnet.embedder.evil": torch.zeros(3)}))
_tensors("a tensor too few")(lambda t, k: t.pop(k))
_tensors("no tensor")(lambda t, k: t.clear())
_tensors("another shape")(lambda t, k: t.update({k: torch.zeros(3, 3)}))
_tensors("a tensor without numbers")(lambda t, k: t.update({k: torch.zeros(0, 10)}))
_tensors("a frozen weight of the base")(lambda t, k: t.update({k.replace(".subtuning_blocks", ""): t[k].clone()}))
_tensors("a name of 5,000 letters")(lambda t, k: t.update({f"{k}.{'a' * 5000}": torch.zeros(1)}))
_tensors("a tensor with a path for a name")(lambda t, k: t.update({"../../../etc/passwd": torch.zeros(1)}))
_tensors("tensors of another method")(lambda t, k: (t.clear(), t.update({"base_model.model.x.lora_A": torch.zeros(2)})))
_tensors("100 million numbers too many")(lambda t, k: t.update({k: torch.zeros(10_000, 10_000, dtype=torch.int8)}))


@case("a billion labels, and a head without numbers")
def _(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[_head(tensors)] = torch.zeros(10**9, 0)
    save_file(tensors, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "num_labels": 10**9, "id2label": None, "label2id": None}))


@case("a block by number that the file knows")
def _(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "base_model.model.0.subtuning_blocks.x": torch.zeros(1)}, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "blocks": [0]}))


@case("a million labels of one number")
def _(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[_head(tensors)] = torch.zeros(10**6, 1, dtype=torch.float8_e4m3fn)
    save_file(tensors, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "num_labels": 10**6, "id2label": None, "label2id": None}))


@case("a table of contents longer than the file")
def _(folder: Path) -> None:
    table, data = taken_apart(folder)
    raw(folder, json.dumps(table).encode(), data, length=10**6)


@case("a table of contents of 2**63 bytes")
def _(folder: Path) -> None:
    table, data = taken_apart(folder)
    raw(folder, json.dumps(table).encode(), data, length=2**63)


@case("90 MB of table of contents")
def _(folder: Path) -> None:
    raw(folder, b"{" + b" " * 90_000_000 + b"}")


@case("a file of 64 GB with nothing in it")
def _(folder: Path) -> None:
    table, data = taken_apart(folder)
    table["base_model.model.evil"] = {"dtype": "U8", "shape": [2**36], "data_offsets": [len(data), len(data) + 2**36]}
    header = json.dumps(table).encode()
    raw(folder, header, data)
    os.truncate(folder / WEIGHTS, 8 + len(header) + len(data) + 2**36)


@case("weights cut in the middle")
def _(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


@case("weights of no bytes")
def _(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 0)


@case("a pickle for weights")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with open(folder / PICKLE, "wb") as file:
        pickle.dump(Runs(folder), file)


@case("a pickle of torch for weights")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": Runs(folder)}, folder / PICKLE)


@case("a pickle with the name of weights")
def _(folder: Path) -> None:
    with open(folder / WEIGHTS, "wb") as file:
        pickle.dump(Runs(folder), file)


@case("a pickle beside the weights")
def _(folder: Path) -> None:
    torch.save({"a": Runs(folder)}, folder / PICKLE)


@case("weights that link out of the folder")
def _(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere.safetensors")


@case("weights that link to a device")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/dev/zero")


@case("weights that link to nowhere")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("../nowhere")


@case("weights that are a pipe")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


@case("weights that are a folder")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


@case("no weights")
def _(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


# --- what lies beside ------------------------------------------------------------------------
@case("a card with a YAML bomb")
def _(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (folder / "README.md").write_text("---\n" + "\n".join(lines) + "\n---\n")


@case("a training_args.bin that is a pickle")
def _(folder: Path) -> None:
    torch.save(Runs(folder), folder / "training_args.bin")


@case("a module in the folder")
def _(folder: Path) -> None:
    for name in ("__init__.py", "planted.py", "conftest.py", "modeling_evil.py"):
        (folder / name).write_text(code(folder))
