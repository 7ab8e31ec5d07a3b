"""Stores: memory equals files, processes share one filling, and nothing half-written is believed."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from subtuning_hf.errors import PrefixCacheError
from subtuning_hf.prefix import ROWS, FileStore, PrefixStore, Trunk
from subtuning_hf.prefix.store import Array
from toys import TOYS

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float64]
TESTS = Path(__file__).parent.parent


def arrays_of(rows=5):
    shapes = {(0, 0, 0): (rows, 1, 3), (0, 1, 0): (rows, 2, 2, 2), (2, 0, 0): (rows, 1), (2, 0, 1): (3, 1, 4)}
    return {
        slot: Array(shape, TYPES[(i + rows) % len(TYPES)]) for i, (slot, shape) in enumerate(sorted(shapes.items()))
    }


def values_of(array, seed):
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(array.shape, generator=random) * 9).to(array.dtype)


def fill(store, only=None):
    with store.filling() as missing:
        for seed, (slot, array) in enumerate(sorted(store.arrays.items())):
            if slot[0] in missing:
                values = values_of(array, seed)
                store.put(slot, 0, values[:2])
                store.put(slot, 2, values[2:])
    return missing


@pytest.mark.parametrize("rows", range(3, 10))
def test_files_hold_what_memory_holds(tmp_path, rows):
    arrays = arrays_of(rows)
    memory, files = PrefixStore(arrays), FileStore(arrays, tmp_path)
    assert fill(memory) == fill(files) == [0, 2]
    places = torch.tensor([2, 0, 2])
    for seed, (slot, array) in enumerate(sorted(arrays.items())):
        taken = memory.take(slot, places, torch.device("cpu"))
        assert torch.equal(taken, values_of(array, seed)[places])
        again = files.take(slot, places, torch.device("cpu"))
        assert again.dtype == taken.dtype and torch.equal(again.view(torch.uint8), taken.view(torch.uint8))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.bin")) == files.nbytes


def test_what_is_taken_is_a_copy(tmp_path):
    for store in (PrefixStore(arrays_of()), FileStore(arrays_of(), tmp_path)):
        fill(store)
        everything = torch.arange(5)
        store.take((0, 0, 0), everything, torch.device("cpu")).fill_(0)
        assert store.take((0, 0, 0), everything, torch.device("cpu")).any()


def test_a_second_store_finds_the_files_complete(tmp_path):
    fill(FileStore(arrays_of(), tmp_path))
    other = FileStore(arrays_of(), tmp_path)
    assert fill(other) == []
    assert torch.equal(
        other.take((2, 0, 1), torch.tensor([1]), torch.device("cpu")), values_of(arrays_of()[2, 0, 1], 3)[1:2]
    )


def test_more_blocks_are_added_to_those_that_are_there(tmp_path):
    some = {slot: array for slot, array in arrays_of().items() if slot[0] == 0}
    fill(FileStore(some, tmp_path))
    before = (tmp_path / "block-0000.bin").stat().st_mtime_ns
    assert fill(FileStore(arrays_of(), tmp_path)) == [2]
    assert (tmp_path / "block-0000.bin").stat().st_mtime_ns == before


def test_an_error_leaves_nothing(tmp_path):
    store, memory = FileStore(arrays_of(), tmp_path), PrefixStore(arrays_of())
    for one in (store, memory):
        with pytest.raises(ZeroDivisionError), one.filling():
            one.put((0, 0, 0), 0, values_of(one.arrays[0, 0, 0], 0))
            raise ZeroDivisionError
        assert fill(one) == [0, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "block-0000.bin", "block-0000.json", "block-0002.bin", "block-0002.json", "lock",
    ]  # fmt: skip


def test_a_killed_filling_is_done_again(tmp_path):
    def die():
        store = FileStore(arrays_of(), tmp_path)
        with store.filling():
            store.put((0, 0, 0), 0, values_of(store.arrays[0, 0, 0], 0))
            os.kill(os.getpid(), 9)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert list(tmp_path.glob("*.part")), "the killed process had begun"
    assert fill(FileStore(arrays_of(), tmp_path)) == [0, 2]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", ["short", "description", "layout"])
def test_damaged_files_are_not_believed(tmp_path, damage):
    fill(FileStore(arrays_of(), tmp_path))
    if damage == "short":
        path = tmp_path / "block-0002.bin"
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path = tmp_path / "block-0002.json"
        text = path.read_text()
        path.write_text(text[:-3] if damage == "description" else text.replace('"format": 1', '"format": 0'))
    assert fill(FileStore(arrays_of(), tmp_path)) == [2]
    assert json.loads((tmp_path / "block-0002.json").read_text())["format"] == 1


def test_other_rows_are_not_taken_for_these(tmp_path):
    fill(FileStore(arrays_of(5), tmp_path))
    assert fill(FileStore(arrays_of(6), tmp_path)) == [0, 2]


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(PrefixCacheError, match="No space left.*Make room"), FileStore(arrays_of(), tmp_path).filling():
        pass
    assert not list(tmp_path.glob("block*"))
    monkeypatch.undo()
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(PrefixCacheError, match="No space left"):
        fill(FileStore(arrays_of(), tmp_path))
    assert not list(tmp_path.glob("block*"))


def test_an_error_of_the_rows_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), FileStore(arrays_of(), tmp_path).filling():
        raise FileNotFoundError("an image")


# --- a trunk's store --------------------------------------------------------------------------
def trunk_of(name="vit", rows=7):
    toy = TOYS[name]
    data = toy.inputs(rows)
    return Trunk(toy.build(), toy.blocks, lambda n: {k: v[list(n)] for k, v in data.items()}, rows, batch_size=3)


def logits_at(trunk, cut, rows):
    batch = trunk.batch_of(rows)
    with torch.no_grad(), trunk.starting_at(trunk.model, cut):
        return trunk.model(**batch, **{ROWS: torch.tensor(rows)}).logits


@pytest.mark.parametrize("name", ["vit", "t5", "convnext"])
def test_a_trunk_gives_the_same_bits_from_files(tmp_path, name):
    memory, files = trunk_of(name), trunk_of(name)
    cuts = (1, 2, len(memory.blocks))
    memory.fill(cuts)
    files.fill(cuts, folder=tmp_path)
    for cut in cuts:
        assert torch.equal(logits_at(memory, cut, [5, 1, 6]), logits_at(files, cut, [5, 1, 6]))
    files.close()
    assert not files.cuts and list(tmp_path.glob("*.bin"))


def test_the_budget_is_kept():
    trunk = trunk_of()
    each = trunk.probe().bytes_per_row[1] * 7
    with pytest.raises(PrefixCacheError, match="the budget is"):
        trunk.fill([1, 2], budget_bytes=2 * each - 1)
    assert trunk.store is None and trunk.cuts == ()
    assert trunk.fill([1, 2], budget_bytes=2 * each) == (1, 2)
    assert trunk.store.nbytes == 2 * each


def test_two_processes_compute_once(tmp_path):
    code = f"""
        import sys; sys.path.insert(0, {str(TESTS)!r})
        import pathlib, time
        from prefix.test_store import trunk_of, logits_at
        import subtuning_hf.prefix.fill as filling
        asked = []
        original = filling.capture
        filling.capture = lambda *a: (asked.append(1), time.sleep(0.5), original(*a))[2]
        trunk = trunk_of()
        trunk.check([2])
        asked.clear()
        ready = pathlib.Path({str(tmp_path)!r})
        (ready / f"ready-{{time.time_ns()}}").touch()
        while len(list(ready.glob("ready-*"))) < 2:
            time.sleep(0.01)
        trunk.fill([2], folder={str(tmp_path)!r})
        print(len(asked), logits_at(trunk, 2, [3, 0, 6]).double().sum().item())
    """
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [run.communicate(timeout=200) for run in runs]
    assert all(run.returncode == 0 for run in runs), told
    counts, sums = zip(*(out.split() for out, _ in told), strict=True)
    assert sorted(counts) == ["0", "3"], "seven rows are three batches of at most three, in one of the processes"
    assert len(set(sums)) == 1
    memory = trunk_of()
    memory.fill([2])
    assert float(sums[0]) == logits_at(memory, 2, [3, 0, 6]).double().sum().item()
