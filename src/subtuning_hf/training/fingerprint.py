"""
Fingerprints of what a score depends on: weights, data and plain values.

A fingerprint is the same in every process and on every machine for the same content, whatever file or memory layout
it comes from. Knows tensors, arrow tables and rows; what a function or setting is, is in `identity.py`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from ..tuner.floating import of_torchao
from .data import DatasetView, is_arraylike, is_hf

# Up to this size every row of a data set that must be read item by item is hashed, beyond it a sample.
FULL_ROWS = 20_000
FULL_BYTES = 512 * 2**20
SAMPLE_ROWS = 2_000
_BATCH = 1_000
_FILE_FEATURES = tuple(getattr(datasets, name) for name in ("Image", "Audio", "Video") if hasattr(datasets, name))


class Hasher:
    """A running hash to which values are added with their types and lengths, so that no two inputs run together."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.size = 0

    def raw(self, tag: str, *parts: Any) -> Hasher:
        """Add bytes under a tag."""
        for part in (tag.encode(), *parts):
            data = memoryview(part).cast("B") if not isinstance(part, bytes) else part
            self._hash.update(struct.pack("<q", len(data)))
            self._hash.update(data)
            self.size += len(data)
        return self

    def tensor(self, tensor: torch.Tensor) -> Hasher:
        """Add a tensor: dtype, shape and bytes."""
        tensor = tensor.detach()
        if tensor.is_meta:
            return self.raw("meta", str(tensor.dtype).encode(), repr(tuple(tensor.shape)).encode())
        if of_torchao(tensor):  # which gives no bytes of its integers
            tensor = tensor.dequantize()
        flat = tensor.cpu().contiguous().reshape(-1)
        # Through bytes, since numpy has no bfloat16 or float8.
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return self.raw("tensor", str(tensor.dtype).encode(), repr(tuple(tensor.shape)).encode(), data)

    def value(self, value: Any) -> Hasher:
        """Add a value of any kind that rows and settings hold; an unknown object counts by its type alone."""
        if value is None or isinstance(value, bool | int | float | complex | str):
            return self.raw(type(value).__name__, repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, bytes | bytearray):
            return self.raw("bytes", bytes(value))
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, np.generic) or (is_arraylike(value) and not isinstance(value, Mapping)):
            return self._array(value)
        if isinstance(value, Mapping):
            self.raw("dict", str(len(value)).encode())
            for key in sorted(value, key=repr):
                self.value(key).value(value[key])
            return self
        if isinstance(value, list | tuple):
            self.raw("list", str(len(value)).encode())
            for item in value:
                self.value(item)
            return self
        if isinstance(value, set | frozenset):
            return self.raw("set", *sorted(fingerprint_value(item).encode() for item in value))
        if isinstance(value, Path):
            return self.raw("path", str(value).encode())
        return self.raw("object", f"{type(value).__module__}.{type(value).__qualname__}".encode())

    def _array(self, value: Any) -> Hasher:
        array = np.asarray(value)
        if array.dtype.hasobject:
            return self.raw("objects", repr(array.shape).encode()).value(array.reshape(-1).tolist())
        # A picture's mode tells two pictures with equal bytes apart (P and L).
        mode = str(getattr(value, "mode", "")) if not isinstance(value, np.ndarray) else ""
        data = np.ascontiguousarray(array).tobytes()
        return self.raw("array", mode.encode(), array.dtype.str.encode(), repr(array.shape).encode(), data)

    def hex(self) -> str:
        """`str`: 32 hexadecimal digits."""
        return self._hash.hexdigest()


def fingerprint_value(value: Any) -> str:
    """Fingerprint of a plain value."""
    return Hasher().value(value).hex()


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """
    Fingerprint of named tensors.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Their order does not matter.
    """
    hasher = Hasher()
    for name in sorted(tensors):
        hasher.raw("name", name.encode()).tensor(tensors[name])
    return hasher.hex()


def fingerprint_weights(model: nn.Module, parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """
    Fingerprints of parts of a model, parameters and buffers.

    Args:
        model (`torch.nn.Module`): The model, unwrapped.
        parts (`Mapping[str, Sequence[str]]`):
            For each part the names of its modules. What lies in none of them is the part `"stem"`, buffers that are
            not saved with a checkpoint included.

    Returns: `dict[str, str]`: one per part, and `"stem"`.
    """
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    owners: dict[str, dict[str, torch.Tensor]] = {part: {} for part in ("stem", *parts)}
    for name, tensor in tensors.items():
        owner = next((part for part, modules in parts.items() if any(_within(name, m) for m in modules)), "stem")
        owners[owner][name] = tensor
    return {part: fingerprint_tensors(found) for part, found in owners.items()}


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


# --- data -----------------------------------------------------------------------------------
def fingerprint_dataset(dataset: Any, labels: Iterable[Any] | None, random_items: bool) -> str:
    """
    Fingerprint of a data set's content.

    Args:
        dataset: A `datasets.Dataset` (all rows as they are stored, whatever cache file they are in, with the columns
            and the transform of its format), or another map-style data set (its items; a sample of them where there
            are many, with all labels).
        labels (`Iterable`, *optional*): The labels of all rows.
        random_items (`bool`): Whether items change from one reading to the next; they are left out then.

    Returns: `str`
    """
    hasher = Hasher().raw("rows", str(len(dataset)).encode())
    if is_hf(dataset):
        return _add_format(_add_arrow(hasher, dataset), dataset).hex()
    kind = type(dataset.dataset if isinstance(dataset, DatasetView) else dataset)
    hasher.raw("type", f"{kind.__module__}.{kind.__qualname__}".encode())
    if isinstance(dataset, torch.utils.data.TensorDataset):
        return hasher.value(list(dataset.tensors)).hex()
    hasher.value(None if labels is None else list(labels))
    for row in () if random_items else rows_to_hash(dataset):
        hasher.value(dataset[row])
    return hasher.hex()


def rows_to_hash(dataset: Any) -> Sequence[int]:
    """All rows of a data set where that is cheap, else an even sample; a rule that gives the same rows every time."""
    count = len(dataset)
    size = Hasher().value(dataset[0]).size
    if count <= SAMPLE_ROWS or (count <= FULL_ROWS and count * size <= FULL_BYTES):
        return range(count)
    return [k * (count - 1) // (SAMPLE_ROWS - 1) for k in range(SAMPLE_ROWS)]


def _add_arrow(hasher: Hasher, dataset: datasets.Dataset) -> Hasher:
    hasher.raw("features", repr(sorted(dataset.features.items(), key=lambda item: item[0])).encode())
    files = {name for name, feature in dataset.features.items() if isinstance(feature, _FILE_FEATURES)}
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH):
        for name in sorted(table.column_names):
            hasher.raw("column", name.encode())
            for chunk in [table.column(name).combine_chunks()]:
                array = chunk.combine_chunks() if isinstance(chunk, pa.ChunkedArray) else chunk
                _add_files(hasher, array) if name in files else _add_array(hasher, array)
    return hasher


def _add_format(hasher: Hasher, dataset: datasets.Dataset) -> Hasher:
    """What rows are given through: a transform, and fewer columns than there are. All else keeps their content."""
    from .identity import fingerprint_code

    found = dataset.format
    if set(found["columns"]) != set(dataset.column_names):
        hasher.raw("columns", *sorted(name.encode() for name in found["columns"]))
    if found["type"] == "custom":
        hasher.raw("transform", fingerprint_code(found["format_kwargs"]["transform"]).encode())
    return hasher


def _add_files(hasher: Hasher, array: pa.Array) -> None:
    """Images and sounds count by what they hold: their own bytes, else those of the file they point to."""
    for entry in array.to_pylist():
        if not isinstance(entry, Mapping) or entry.get("bytes") is not None:
            hasher.value(entry["bytes"] if isinstance(entry, Mapping) else entry)
            continue
        path = entry.get("path")
        if path is not None and Path(path).is_file():
            hasher.value(Path(path).read_bytes())
        else:
            hasher.value(path)


def _add_array(hasher: Hasher, array: pa.Array) -> None:
    """Content of an arrow array, free of offsets, padding and chunks."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    hasher.raw("arrow", str(kind).encode(), str(len(array)).encode())
    if array.null_count:
        hasher.raw("valid", np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_dictionary(kind):
        _add_array(hasher, array.dictionary_decode())
    elif pa.types.is_struct(kind):
        for index, field in enumerate(kind):
            hasher.raw("field", field.name.encode())
            _add_array(hasher, array.field(index) if not array.null_count else pc.struct_field(array, index))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        hasher.raw("lengths", _numbers(pc.fill_null(pc.list_value_length(array), 0)))
        _add_array(hasher, array.flatten())
    elif pa.types.is_fixed_size_list(kind):
        _add_array(hasher, array.flatten())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        hasher.raw("numbers", _numbers(pc.fill_null(array, False if pa.types.is_boolean(kind) else 0)))
    else:
        hasher.value([_plain(value) for value in array.to_pylist()])


def _numbers(array: pa.Array) -> bytes:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes()


def _plain(value: Any) -> Any:
    # Dates, times and decimals have a repr that says all.
    return value if isinstance(value, str | bytes | list | dict) or value is None else repr(value)
