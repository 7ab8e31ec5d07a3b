"""The journal on disks that are full, read-only or broken: the file ends with its last good record."""

import errno
import os
from pathlib import Path

import pytest

from search.test_journal import FIRST, SECOND, SPEC, everything_in, python, ready
from subtuning_hf.errors import JournalError
from subtuning_hf.search import journal as journal_module
from subtuning_hf.search.journal import Journal, find_study, read_study

NAME = "rank-0000.jsonl"


def failing_write(monkeypatch, code: int, after: int) -> None:
    """The next write puts down some bytes, the one after fails."""
    real, state = os.write, {"left": 2}

    def partly(handle, data):
        state["left"] -= 1
        if state["left"]:
            return real(handle, bytes(data)[:after])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(journal_module.os, "write", partly)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [1, 50, 120])
def test_a_full_disk_leaves_the_last_good_record(tmp_path, monkeypatch, code, after):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
        good = everything_in(tmp_path)
        with monkeypatch.context() as patch:
            failing_write(patch, code, after)
            with pytest.raises(
                JournalError, match=r"rank-0000\.jsonl cannot be written.*safe.*Free some space"
            ) as error:
                journal.append(SECOND)
        assert error.value.errno == code and os.strerror(code) in str(error.value)
        assert everything_in(tmp_path) == good
        journal.append(SECOND)  # once there is space again
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_a_disk_that_is_full_from_the_start_leaves_no_journal(tmp_path, monkeypatch):
    with Journal.open(tmp_path, SPEC) as journal:
        with monkeypatch.context() as patch:
            failing_write(patch, errno.ENOSPC, 40)
            with pytest.raises(JournalError, match="cannot be written"):
                journal.append(FIRST)
        assert find_study(tmp_path) is None and not (tmp_path / NAME).exists()
        journal.append(FIRST)
    assert read_study(tmp_path).evaluations == (FIRST,)


def test_a_sync_that_fails_takes_the_record_back(tmp_path, monkeypatch):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
        good = everything_in(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(journal_module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
            with pytest.raises(JournalError, match="I/O error"):
                journal.append(SECOND)
        assert everything_in(tmp_path) == good
        journal.append(SECOND)


def test_an_interrupt_takes_the_record_back(tmp_path, monkeypatch):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
        good = everything_in(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(journal_module.os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                journal.append(SECOND)
        assert everything_in(tmp_path) == good
        journal.append(SECOND)
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_a_real_limit_of_the_system(tmp_path):
    """No imitation: the kernel itself writes a part of a record and refuses the rest."""
    pytest.importorskip("resource")
    writer = python(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with Journal.open(sys.argv[1], SPEC) as journal:
            for number in range(1000):
                try:
                    journal.append(evaluation(("a",), number, 1, 4, info={"padding": "x" * (number * 7 % 300)}))
                except JournalError as error:
                    print(number, error.errno, flush=True)
                    break
        """,
        tmp_path,
    )
    number, code = ready(writer).split()
    writer.communicate()
    assert int(code) == errno.EFBIG and int(number) > 3
    data = (tmp_path / NAME).read_bytes()
    assert data.endswith(b"}\n") and len(data) <= 5000
    assert [each.fold for each in read_study(tmp_path).evaluations] == list(range(int(number)))


def test_a_record_that_cannot_even_be_taken_back_stops_the_journal(tmp_path, monkeypatch):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
        with monkeypatch.context() as patch:
            failing_write(patch, errno.EIO, 30)
            patch.setattr(journal._file, "_take_back", lambda: None)
            with pytest.raises(JournalError):
                journal.append(SECOND)
        with pytest.raises(JournalError, match="changed by something else"):
            journal.append(SECOND)
    assert read_study(tmp_path).evaluations == (FIRST,)
    with Journal.open(tmp_path, SPEC) as journal:  # the next one repairs it
        journal.append(SECOND)
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with Journal.open(tmp_path / "file" / "journal", SPEC) as journal:
        with pytest.raises(JournalError, match="cannot be written.*another output_dir"):
            journal.append(FIRST)
    assert everything_in(tmp_path) == {"file": b"mine"}


def test_a_folder_without_rights(tmp_path, monkeypatch):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # tests may run as root, whom no rights stop
    with pytest.raises(JournalError, match="cannot be written: Permission denied.*correct the rights"):
        Journal.open(tmp_path, SPEC)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(JournalError, match="cannot be read: Permission denied"):
        read_study(tmp_path)
