"""The journal after kills, garbage, foreign files and newer versions: nothing finished is ever lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from search.score_tables import evaluation, make_spec
from search.test_journal import DECISION, FIRST, OTHER, SEARCH, SECOND, SPEC, everything_in, python, ready
from subtuning_hf.errors import (
    JournalCorruptError,
    JournalError,
    JournalVersionError,
    StudyMismatchError,
)
from subtuning_hf.search import journal as journal_module
from subtuning_hf.search.journal import Journal, find_study, read_study
from subtuning_hf.search.lines import FORMAT
from subtuning_hf.search.records import Candidate, Evaluation

NAME = "rank-0000.jsonl"
ENTRIES = (SEARCH, FIRST, SECOND, DECISION, evaluation(("a",), 0, 3, 4, info={"note": "Grüße \U0001f600"}))


@pytest.fixture
def whole(tmp_path) -> bytes:
    """A journal of one search record, three evaluations and a decision."""
    folder = tmp_path / "whole"
    with Journal.open(folder, SPEC) as journal:
        for entry in ENTRIES:
            journal.append(entry)
    return (folder / NAME).read_bytes()


def entries_of(folder: Path) -> list:
    study = find_study(folder)
    return [] if study is None else [*study.searches, *study.evaluations, *study.decisions]


def write(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_bytes(data)
    return folder / NAME


# --- torn tails ------------------------------------------------------------------------------
def test_cut_at_every_byte_then_continued_it_equals_the_whole(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(journal_module.os, "fsync", lambda handle: None)  # thousands of times
    folder = tmp_path / "cut"
    for cut in range(len(whole) + 1):
        path = write(folder, whole[:cut])
        # A record is there as soon as its last brace is, whether or not its newline is.
        lines = [line for line in whole[:cut].split(b"\n") if line.endswith(b"}") and line in whole.split(b"\n")]
        expected = ENTRIES[: max(0, len(lines) - 1)]
        found = entries_of(folder)
        assert len(found) == len(expected) and all(entry in found for entry in expected), cut
        assert path.read_bytes() == whole[:cut]  # reading repairs nothing
        with Journal.open(folder, SPEC) as journal:
            for entry in ENTRIES[len(expected) :]:
                journal.append(entry)
        assert path.read_bytes() == whole, cut


def test_opening_alone_repairs(tmp_path, whole):
    folder = tmp_path / "cut"
    path = write(folder, whole[:-7])
    Journal.open(folder, SPEC).close()
    assert path.read_bytes() == whole[: whole[:-1].rindex(b"\n") + 1]
    write(folder, whole[:-1])  # all but the newline
    Journal.open(folder, SPEC).close()
    assert path.read_bytes() == whole


def test_zeros_at_the_end_as_after_a_power_cut(tmp_path, whole):
    folder = tmp_path / "cut"
    path = write(folder, whole + b"\0" * 100)
    assert len(entries_of(folder)) == len(ENTRIES)
    Journal.open(folder, SPEC).close()
    assert path.read_bytes() == whole
    write(folder, b"\0" * 100)
    with Journal.open(folder, SPEC) as journal:
        journal.append(FIRST)
    assert read_study(folder).evaluations == (FIRST,)


def test_an_empty_file_is_a_journal_not_begun(tmp_path):
    path = write(tmp_path, b"")
    assert find_study(tmp_path) is None
    with Journal.open(tmp_path, SPEC) as journal:
        assert path.read_bytes() == b""
        journal.append(FIRST)
    assert read_study(tmp_path).evaluations == (FIRST,)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize("seed", range(5))
def test_a_writer_killed_at_any_moment_loses_nothing_it_had_finished(tmp_path, seed):
    code = """
        journal = Journal.open(sys.argv[1], SPEC)
        known = len(journal.read().evaluations)
        for number in range(known, 100000):
            journal.append(evaluation(("a",), number, 1, 4, info={"padding": "x" * 2000}))
            print(number, flush=True)
    """
    finished = -1
    for _ in range(3):
        writer = python(code, tmp_path)
        ready(writer)
        time.sleep(random.Random(seed).random() * 0.05)
        writer.kill()
        printed, _ = writer.communicate()
        finished = max([finished, *(int(line) for line in printed.split("\n")[:-1] if line)])
        folds = [each.fold for each in read_study(tmp_path).evaluations]
        assert folds == list(range(len(folds))) and len(folds) > finished
    Journal.open(tmp_path, SPEC).close()
    assert [each.fold for each in read_study(tmp_path).evaluations] == folds


# --- garbage ---------------------------------------------------------------------------------
GARBAGE = {
    "half a line": b'{"type":"evaluation","candidate":{"blocks":[]',
    "words": b"hello",
    "empty": b"",
    "bytes": b"\xff\xfe\x00",
    "zeros": b"\0" * 20,
    "a list": b"[1, 2]",
    "a number": b"12",
    "NaN": b'{"type":"evaluation","candidate":{"blocks":[]},"fold":0,"score":0.5,"num_examples":1,'
    b'"metrics":{"f1":NaN},"trainable_parameters":0,"seconds":0,"info":{}}',
    "unknown type": b'{"type":"prune","candidate":"a"}',
    "no type": b'{"score":0.5}',
    "unknown key": b'{"type":"search","strategy":"exact","direction":"forward","max_blocks":1,"min_gain":null,"x":1}',
    "missing key": b'{"type":"search","strategy":"exact"}',
    "wrong value": b'{"type":"search","strategy":"exact","direction":"forward","max_blocks":-1,"min_gain":null}',
    "infinite score": b'{"type":"evaluation","candidate":{"blocks":[]},"fold":0,"score":1e999,"num_examples":1,'
    b'"metrics":{},"trainable_parameters":0,"seconds":0,"info":{}}',
    "deep": b"[" * 100_000,
    "second header": b'{"type":"study","format":1}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("place", [1, 3, 6])
def test_garbage_is_refused_with_its_line_and_left_as_it_is(tmp_path, whole, garbage, place):
    lines = whole.split(b"\n")
    lines.insert(place, garbage)
    folder = tmp_path / "damaged"
    write(folder, b"\n".join(lines))
    before = everything_in(folder)
    for attempt in (lambda: read_study(folder), lambda: Journal.open(folder, SPEC)):
        with pytest.raises(JournalCorruptError, match=rf"rank-0000\.jsonl, line {place + 1}: .*[Rr]estore the file"):
            attempt()
    after = everything_in(folder)
    assert after == before


def test_deleting_the_damaged_line_is_a_way_out(tmp_path, whole):
    folder = tmp_path / "damaged"
    lines = whole.split(b"\n")
    lines[2] = b"garbage"
    path = write(folder, b"\n".join(lines))
    with pytest.raises(JournalCorruptError, match="delete this line"):
        read_study(folder)
    path.write_bytes(b"\n".join(lines[:2] + lines[3:]))
    assert read_study(folder).evaluations == (SECOND, ENTRIES[-1])


def test_every_single_changed_byte_is_noticed_or_harmless(tmp_path, whole, monkeypatch):
    """No change of one byte makes the reader crash or lose other records without a word."""
    monkeypatch.setattr(journal_module.os, "fsync", lambda handle: None)
    folder = tmp_path / "damaged"
    chance = random.Random(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        write(folder, bytes(damaged))
        try:
            found = entries_of(folder)
        except (JournalError, StudyMismatchError):
            continue
        assert len(found) >= len(ENTRIES) - 1 and sum(entry not in ENTRIES for entry in found) <= 1


# --- foreign files ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        b'{"loss": 0.1, "step": 10}\n{"loss": 0.05, "step": 20}\n',
        b'{"loss": 0.1}',
        b"hello",
        b"hello\n",
        b'{"type":"evaluation"}\n',
        b"\x89PNG\r\n\x1a\n",
        b"\n",
        b'{"type":"study"',  # of another order of keys, cut
        b"{}\n",
    ],
    ids=repr,
)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path, data):
    path = write(tmp_path, data)
    if b'{"type":"study",'.startswith(data):
        assert find_study(tmp_path) is None  # may be a header of ours, cut
        return
    for attempt in (lambda: read_study(tmp_path), lambda: Journal.open(tmp_path, SPEC)):
        with pytest.raises(JournalCorruptError, match=r"rank-0000\.jsonl is no journal.*Move the file away"):
            attempt()
    assert path.read_bytes() == data and [each.name for each in tmp_path.iterdir()] == [NAME]


def test_a_damaged_header_is_told(tmp_path, whole):
    write(tmp_path, whole.replace(b'"num_folds":2', b'"num_folds":"2"'))
    with pytest.raises(JournalCorruptError, match=r"line 1: the header.*num_folds must be a whole number"):
        read_study(tmp_path)


# --- versions --------------------------------------------------------------------------------
def test_a_newer_format_is_refused_and_never_repaired(tmp_path, whole):
    header, rest = whole.split(b"\n", 1)
    header = json.dumps(json.loads(header) | {"format": FORMAT + 1, "shards": []}).encode()
    newer = header + b"\n" + rest + b'{"type":"new'
    folder = tmp_path / "newer"
    path = write(folder, newer)
    words = rf"journal format {FORMAT + 1}.*formats up to {FORMAT}.*pip install \.` in a checkout"
    for attempt in (lambda: read_study(folder), lambda: Journal.open(folder, SPEC)):
        with pytest.raises(JournalVersionError, match=words):
            attempt()
    assert path.read_bytes() == newer and [each.name for each in folder.iterdir()] == [NAME]


@pytest.mark.parametrize("value", ["1", 0, -1, 1.0, True, None], ids=repr)
def test_a_format_that_is_no_number_is_damage(tmp_path, whole, value):
    header, rest = whole.split(b"\n", 1)
    write(tmp_path, json.dumps(json.loads(header) | {"format": value}).encode() + b"\n" + rest)
    with pytest.raises(JournalCorruptError, match="`format` must be a whole number of 1 or more"):
        read_study(tmp_path)


# --- meddling ----------------------------------------------------------------------------------
def test_a_file_changed_from_outside_gets_nothing_more(tmp_path):
    def deleted(path):
        path.unlink()

    def longer(path):
        path.write_bytes(path.read_bytes() + b"x")

    def shorter(path):
        path.write_bytes(path.read_bytes()[:-5])

    def replaced(path):
        shutil.copy(path, path.with_suffix(".copy"))
        os.replace(path.with_suffix(".copy"), path)

    for meddle in (deleted, longer, shorter, replaced):
        folder = tmp_path / meddle.__name__
        with Journal.open(folder, SPEC) as journal:
            journal.append(FIRST)
            meddle(folder / NAME)
            with pytest.raises(JournalError, match=r"(was changed by something else|cannot be written any more)"):
                journal.append(SECOND)


def test_a_mismatch_is_told_before_a_torn_tail_is_touched(tmp_path, whole):
    path = write(tmp_path, whole[:-7])
    with pytest.raises(StudyMismatchError):
        Journal.open(tmp_path, OTHER)
    assert path.read_bytes() == whole[:-7]


def test_texts_no_encoding_can_hold_survive(tmp_path):
    odd = Evaluation(Candidate(("a", "schicht.\udc80")), 0, 0.5, 4, info={"note": "\ud800\u2028\x00"})
    with Journal.open(tmp_path, make_spec("ab", 2)) as journal:
        journal.append(odd)
    assert read_study(tmp_path).evaluations == (odd,)


def test_the_lock_file_may_hold_anything(tmp_path):
    (tmp_path / f"{NAME}.lock").write_bytes(b"\xff" * 10)
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
        process = python(
            "try: Journal.open(sys.argv[1], SPEC)\nexcept JournalError as e: print(e, flush=True)", tmp_path
        )
        assert f"process {os.getpid()}" in ready(process)
        process.communicate()
    assert isinstance(process, subprocess.Popen) and process.returncode == 0
