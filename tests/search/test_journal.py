"""The journal: what is appended is there, once, whoever reads; and nothing is there before."""

import gc
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from search.score_tables import all_evaluations, drive, evaluation, make_spec, subsets
from subtuning_hf.errors import ArgumentsError, JournalBusyError, JournalError, StudyMismatchError
from subtuning_hf.search import journal as journal_module
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import Journal, Study, find_study, read_study
from subtuning_hf.search.records import Candidate, Decision, FinalRun, SearchSpec

SPEC = make_spec("ab", num_folds=2, fingerprints={"data": "12"}, settings={"learning_rate": 0.1})
OTHER = make_spec("ab", num_folds=2, fingerprints={"data": "34"}, settings={"learning_rate": 0.2})
SEARCH = SearchSpec(max_blocks=1)
DECISION = Decision(0, Candidate(), None, None, None, "Start.")
FIRST, SECOND = evaluation((), 0, 1, 4), evaluation((), 1, 2, 4)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    """A process that runs code; it prints a line when it is ready."""
    head = "import os, signal, sys, time\nfrom search.test_journal import *\n"
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, sys.path)])}
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def ready(process: subprocess.Popen) -> str:
    line = process.stdout.readline().strip()
    assert line, process.stderr.read()
    return line


# --- life ------------------------------------------------------------------------------------
def test_what_is_appended_is_read(tmp_path):
    with Journal.open(tmp_path, SPEC) as journal:
        for entry in (SEARCH, FIRST, DECISION, SECOND):
            journal.append(entry)
            assert read_study(tmp_path) == journal.read()
    study = read_study(str(tmp_path))
    assert study == Study(SPEC, (FIRST, SECOND), (SEARCH,), (DECISION,))


def test_final_runs_are_entries_of_their_own_and_writers_are_named(tmp_path):
    final = FinalRun(Candidate(("a",)), 42, {"eval_accuracy": 0.5}, 12, 1.0, {"rows": "7e57"})
    with Journal.open(tmp_path, SPEC) as one, Journal.open(tmp_path, SPEC, "rank-0001") as two:
        for journal, entry in ((two, SECOND), (one, FIRST), (two, final), (one, final), (two, FIRST)):
            journal.append(entry)
    study = read_study(tmp_path)
    assert study == Study(SPEC, (FIRST, SECOND, FIRST), (), (), (final, final))
    assert study.writers == ("rank-0000", "rank-0001", "rank-0001")
    assert b'{"type":"final","candidate":{"blocks":["a"]},"seed":42,' in (tmp_path / "rank-0001.jsonl").read_bytes()
    state = replay(SPEC, SEARCH, study.evaluations)
    assert [unit.candidate.label for unit in state.pending] == ["a", "a", "b", "b"]  # no final run is an evaluation


def test_every_line_is_json_and_the_first_is_the_header(tmp_path):
    with Journal.open(tmp_path, SPEC) as journal:
        for entry in (SEARCH, FIRST, DECISION):
            journal.append(entry)
    data = (tmp_path / "rank-0000.jsonl").read_bytes()
    lines = [json.loads(line) for line in data.decode("ascii").splitlines()]
    assert data.endswith(b"\n") and data.count(b"\n") == len(lines) == 4
    assert [line["type"] for line in lines] == ["study", "search", "evaluation", "decision"]
    assert lines[0]["format"] == 3 and lines[0]["settings"] == {"learning_rate": 0.1}
    assert lines[2]["candidate"] == {"blocks": []} and lines[2]["score"] == 0.25


def test_a_journal_is_continued(tmp_path):
    for entry in (FIRST, SECOND, DECISION):
        with Journal.open(tmp_path, SPEC) as journal:
            journal.append(entry)
    assert read_study(tmp_path) == Study(SPEC, (FIRST, SECOND), (), (DECISION,))
    assert (tmp_path / "rank-0000.jsonl").read_bytes().count(b'"type":"study"') == 1


def test_the_environment_may_change_between_runs(tmp_path):
    specs = [make_spec("ab", num_folds=2, environment={"torch": version}) for version in ("2.5", "2.6")]
    for spec, entry in zip(specs, (FIRST, SECOND), strict=True):
        with Journal.open(tmp_path, spec) as journal:
            journal.append(entry)
    assert read_study(tmp_path).spec.environment == {"torch": "2.5"}
    assert len(read_study(tmp_path).evaluations) == 2


def test_nothing_is_on_disk_before_the_first_append(tmp_path):
    folder = tmp_path / "deep" / "journal"
    with Journal.open(folder, SPEC) as journal:
        assert journal.read() == Study(SPEC)
        assert find_study(folder) is None
    assert not list(tmp_path.iterdir())


def test_a_search_interrupted_after_any_evaluation_ends_as_if_it_had_not_been(tmp_path):
    table = {names: (len(names), 2 * len(names)) for names in subsets("ab")}
    spec, search = make_spec("ab", 2), SearchSpec()
    known = {each.unit: each for each in all_evaluations(table, (4, 4))}
    whole, done = drive(spec, search, known.__getitem__)
    for stop in range(len(done) + 1):
        folder = tmp_path / str(stop)
        made = []
        for limit in (stop, len(done)):
            with Journal.open(folder, spec) as journal:
                while not (state := replay(spec, search, journal.read().evaluations)).finished and len(made) < limit:
                    journal.append(known[state.pending[0]])
                    made.append(state.pending[0])
        assert replay(spec, search, read_study(folder).evaluations) == whole
        assert len(made) == len(set(made)) == len(done)


def test_a_closed_journal_takes_nothing(tmp_path):
    journal = Journal.open(tmp_path, SPEC)
    journal.append(FIRST)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="was closed"):
        journal.append(SECOND)
    assert read_study(tmp_path).evaluations == (FIRST,)


@pytest.mark.parametrize("entry", [SPEC, Candidate(), {"type": "evaluation"}, None], ids=str)
def test_only_records_of_a_journal_are_taken(tmp_path, entry):
    with Journal.open(tmp_path, SPEC) as journal, pytest.raises(ArgumentsError, match="evaluations, searches"):
        journal.append(entry)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("writer", ["", "a/b", "..", ".hidden", "a b", "rank\n", None], ids=repr)
def test_bad_writers(tmp_path, writer):
    with pytest.raises(ArgumentsError, match="`writer`"):
        Journal.open(tmp_path, SPEC, writer)


def test_every_append_is_synced(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(
        journal_module.os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), sync(handle))
    )
    with Journal.open(tmp_path, SPEC) as journal:
        for entry in (FIRST, SECOND):
            synced.clear()
            journal.append(entry)
            assert (tmp_path / "rank-0000.jsonl").stat().st_size in synced


# --- several files ---------------------------------------------------------------------------
def test_the_study_is_the_union_of_its_files_in_the_order_of_their_names(tmp_path):
    with Journal.open(tmp_path, SPEC, "rank-0001") as one, Journal.open(tmp_path, SPEC) as zero:
        one.append(SECOND)
        zero.append(FIRST)
        one.append(DECISION)
        assert one.read() == zero.read() == Study(SPEC, (FIRST, SECOND), (), (DECISION,))


def test_other_files_are_left_alone(tmp_path):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
    (tmp_path / "initial_head.safetensors").write_bytes(b"\xff\xfe")
    (tmp_path / "notes.txt").write_text("not a journal")
    (tmp_path / "._rank-0000.jsonl").write_bytes(b"\x00\x05\x16\x07")  # as macOS leaves them beside a copy
    (tmp_path / "folder.jsonl").mkdir()
    assert read_study(tmp_path).evaluations == (FIRST,)
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(SECOND)
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_files_of_two_studies_are_no_study(tmp_path):
    for spec, writer in ((SPEC, "a"), (OTHER, "b")):
        with Journal.open(tmp_path / writer, spec, writer) as journal:
            journal.append(FIRST)
    (tmp_path / "b" / "b.jsonl").rename(tmp_path / "a" / "b.jsonl")
    with pytest.raises(StudyMismatchError, match=r"(?s)a\.jsonl and .*b\.jsonl are not.*data: '12' -> '34'"):
        read_study(tmp_path / "a")


def test_no_journal(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        assert find_study(folder) is None
        with pytest.raises(JournalError, match="There is no journal in"):
            read_study(folder)


# --- another study ---------------------------------------------------------------------------
@pytest.mark.parametrize("writer", ["rank-0000", "rank-0001"])
def test_another_study_is_refused_and_nothing_is_changed(tmp_path, writer):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
    before = everything_in(tmp_path)
    with pytest.raises(StudyMismatchError) as error:
        Journal.open(tmp_path, OTHER, writer)
    assert everything_in(tmp_path) == before
    message = str(error.value)
    assert "data: '12' -> '34'" in message and "learning_rate: 0.1 -> 0.2" in message and "output_dir" in message


def test_a_study_that_begins_while_another_is_open_is_noticed(tmp_path):
    with Journal.open(tmp_path, OTHER) as late:
        with Journal.open(tmp_path, SPEC) as journal:
            journal.append(FIRST)
        before = everything_in(tmp_path)
        with pytest.raises(StudyMismatchError):
            late.append(FIRST)
        assert everything_in(tmp_path)["rank-0000.jsonl"] == before["rank-0000.jsonl"]


# --- one writer ------------------------------------------------------------------------------
def test_two_writers_of_one_file_in_one_process(tmp_path):
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(FIRST)
        with pytest.raises(JournalBusyError, match=f"process {os.getpid()} "):
            Journal.open(tmp_path, SPEC)
        journal.append(SECOND)
    Journal.open(tmp_path, SPEC).close()
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_two_writers_that_both_found_nothing(tmp_path):
    with Journal.open(tmp_path, SPEC) as one, Journal.open(tmp_path, SPEC) as other:
        one.append(FIRST)
        with pytest.raises(JournalBusyError):
            other.append(SECOND)
        one.close()
        other.append(SECOND)  # what the first one left is continued
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_a_journal_that_was_forgotten_does_not_stay_locked(tmp_path):
    journal = Journal.open(tmp_path, SPEC)
    journal.append(FIRST)
    with pytest.warns(ResourceWarning):
        del journal
        gc.collect()
    Journal.open(tmp_path, SPEC).close()


def test_a_second_process_is_refused_while_the_first_lives_and_reads_all_the_same(tmp_path):
    holder = python(
        """
        journal = Journal.open(sys.argv[1], SPEC)
        journal.append(FIRST)
        print(os.getpid(), flush=True)
        time.sleep(60)
        """,
        tmp_path,
    )
    try:
        pid = ready(holder)
        before = everything_in(tmp_path)
        with pytest.raises(JournalBusyError, match=rf"is being written by process {pid} .*Wait for it"):
            Journal.open(tmp_path, SPEC)
        assert everything_in(tmp_path) == before
        assert read_study(tmp_path).evaluations == (FIRST,)
        with Journal.open(tmp_path, SPEC, "rank-0001") as journal:  # a file of one's own is free
            journal.append(SECOND)
    finally:
        holder.kill()
        holder.communicate()
    with Journal.open(tmp_path, SPEC) as journal:
        journal.append(DECISION)
    assert read_study(tmp_path) == Study(SPEC, (FIRST, SECOND), (), (DECISION,))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_holds_the_lock_nor_writes(tmp_path):
    parent = python(
        """
        journal = Journal.open(sys.argv[1], SPEC)
        journal.append(FIRST)
        child = os.fork()
        if child == 0:
            try:
                journal.append(SECOND)
                print("wrote", flush=True)
            except JournalError as error:
                print(os.getpid(), "parent of this process" in str(error), flush=True)
            time.sleep(60)
        time.sleep(60)
        """,
        tmp_path,
    )
    child, refused = ready(parent).split()
    try:
        assert refused == "True"
        with pytest.raises(JournalBusyError):
            Journal.open(tmp_path, SPEC)
        parent.kill()
        parent.wait()
        os.kill(int(child), 0)  # lives on, as a data loader's worker does for some seconds
        with Journal.open(tmp_path, SPEC) as journal:
            journal.append(SECOND)
    finally:
        parent.kill()
        os.kill(int(child), 9)
        parent.communicate()
    assert read_study(tmp_path).evaluations == (FIRST, SECOND)


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch):
    lock = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "flock", unsupported)
    with Journal.open(tmp_path, SPEC) as journal:
        with pytest.warns(UserWarning, match="cannot be locked"):
            journal.append(FIRST)
    assert read_study(tmp_path).evaluations == (FIRST,)


def test_the_package_needs_the_standard_library_alone():
    code = "import sys, subtuning_hf.search; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=_bare(), check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"subtuning_hf"}
    assert not {name for name in foreign if not name.startswith("_")}


def _bare() -> dict[str, str]:
    source = Path(journal_module.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(source)}
