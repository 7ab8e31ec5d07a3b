"""Several processes as torchrun and accelerate start them: the same study as one process, and the same end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subtuning_hf.search.journal import find_study, read_study
from training import launched
from training.cases import Rows, make_model, make_trainer

ROOT = Path(__file__).parents[2]
SCRIPT = Path(launched.__file__)
pytestmark = pytest.mark.slow


def torchrun(*words: object, processes: int = 2, options: tuple[str, ...] = ()) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, *options, str(SCRIPT), *map(str, words)]


def environment() -> dict[str, str]:
    hidden = dict.fromkeys(("CUDA_VISIBLE_DEVICES",), "")
    return {**os.environ, **hidden, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def launch(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280, cwd=ROOT)


def told(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"told-{rank}.json").read_text())


def alone(folder: Path) -> list[list]:
    """The same study by one process, here."""
    trainer = make_trainer(folder, model=make_model(), args=launched.ARGS, eval_dataset=Rows(18, seed=5))
    trainer.search()
    trainer.profile(pairs=True, repeats=2)
    trainer.repeat(num_repeats=3)
    return launched.scores(folder)


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_give_the_study_of_one_and_train_its_winner_together(tmp_path, launcher):
    folder = tmp_path / "two"
    command = torchrun("everything", folder)
    if launcher == "accelerate":
        config = ROOT / "accelerate_configs" / "cpu.yaml"
        words = ["-m", "accelerate.commands.launch", "--config_file", str(config), str(SCRIPT), "everything"]
        command = [sys.executable, *words, str(folder)]
    done = launch(command)
    assert done.returncode == 0, done.stderr
    assert launched.scores(folder) == alone(tmp_path / "one")
    first, second = told(folder, 0), told(folder, 1)
    assert first["world"] == second["world"] == 2
    # Both did real work, in files of their own, and what they did adds up.
    assert first["evaluated"] > 0 and second["evaluated"] > 0
    units = [evaluation.unit for evaluation in read_study(folder / "journal").evaluations]
    assert len(set(units)) == len(units) == first["evaluated"] + second["evaluated"]
    assert {path.name for path in (folder / "journal").glob("*.jsonl")} == {"rank-0000.jsonl", "rank-0001.jsonl"}
    # The final training was one distributed training: equal weights, although the heads were drawn apart.
    for key in ("blocks", "table", "finals", "tensors", "loss"):
        assert first[key] == second[key], key
    assert first["finals"] == [42, 43, 44] and (folder / "adapter" / "adapter_config.json").exists()
    assert not list(folder.glob(".candidate-*"))


def test_three_processes_give_the_study_of_one(tmp_path):
    done = launch(torchrun("search", tmp_path / "three", processes=3))
    assert done.returncode == 0, done.stderr
    make_trainer(tmp_path / "one", args=launched.ARGS).search()
    assert launched.scores(tmp_path / "three") == launched.scores(tmp_path / "one")


def test_a_launch_of_one_process_searches_like_none(tmp_path):
    done = launch(torchrun("search", tmp_path / "launched", processes=1))
    assert done.returncode == 0, done.stderr
    make_trainer(tmp_path / "one", args=launched.ARGS).search()
    assert launched.scores(tmp_path / "launched") == launched.scores(tmp_path / "one")


def test_one_trainer_with_several_studies_and_one_that_works_ahead(tmp_path):
    done = launch(torchrun("again", tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    launched.again(tmp_path / "one")
    for study in ("first", "second"):
        assert launched.scores(tmp_path / "two" / study) == launched.scores(tmp_path / "one" / study)
    # Working ahead may evaluate more, and never otherwise.
    ahead, plain = (launched.scores(tmp_path / number / "ahead") for number in ("two", "one"))
    assert ahead[2] == plain[2] and all(entry in ahead[0] for entry in plain[0])
    units = [evaluation.unit for evaluation in read_study(tmp_path / "two" / "ahead" / "journal").evaluations]
    assert len(units) == len(set(units))


def test_machines_without_a_shared_folder_start_from_the_head_of_the_scores_that_are_known(tmp_path):
    folder = tmp_path / "out"
    # All that is left of an earlier launch is what the second machine had evaluated.
    earlier = make_trainer(folder / "1", model=make_model(head_seed=9), args={**launched.ARGS, "max_blocks": 0})
    earlier.search()
    head = earlier.base_model.classifier[1].weight.tolist()
    done = launch(torchrun("two_heads", folder))
    assert done.returncode == 0, done.stderr
    first, second = told(folder, 0), told(folder, 1)
    assert first["head"] == second["head"] == head
    # Each folder holds what its process did, and both hold the head for the next launch.
    assert first["evaluations"] + second["evaluations"] in (8, 12)
    files = [(folder / rank / "journal" / "initial_head.safetensors").exists() for rank in ("0", "1")]
    assert files == [True, False] or files == [True, True]
    studies = [find_study(folder / rank / "journal") for rank in ("0", "1")]
    assert len({study.spec.fingerprint for study in studies if study is not None}) == 1


def test_an_error_in_one_process_ends_all_with_its_words(tmp_path):
    folder = tmp_path / "out"
    began = time.monotonic()
    done = launch(torchrun("failing", folder))
    assert done.returncode != 0
    seen = [told(folder, rank) for rank in (0, 1)]
    for one in seen:
        assert "the metric has no value" in one["text"]
        assert any("While training candidate" in note and "fold" in note for note in one["notes"])
    own, heard = sorted(seen, key=lambda one: "(in process" in one["text"])
    assert own["type"] == "ZeroDivisionError" and own["text"] == "the metric has no value"
    assert heard["type"] == "PeerFailedError" and "ZeroDivisionError" in heard["text"]
    assert len(read_study(folder / "journal").evaluations) >= 3
    assert not list(folder.glob(".candidate-*"))
    assert time.monotonic() - began < 200


def test_processes_that_were_given_different_rows(tmp_path):
    done = launch(torchrun("other_data", tmp_path / "out"))
    assert done.returncode != 0
    for rank in (0, 1):
        one = told(tmp_path, rank)
        assert one["type"] == "StudyMismatchError" and "data" in one["text"]
    assert find_study(tmp_path / "out" / "journal") is None


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_is_restarted_by_the_launcher_and_repeats_nothing(tmp_path):
    folder = tmp_path / "out"
    done = launch(torchrun("killed_once", folder, options=("--max-restarts", "2")))
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "killed").read_text()) > 2
    make_trainer(tmp_path / "one", args=launched.ARGS).search()
    assert launched.scores(folder) == launched.scores(tmp_path / "one")


def test_a_failed_launch_is_restarted(tmp_path):
    # The addresses that the first attempt left in torchrun's store must not be taken for those of the second.
    folder = tmp_path / "out"
    done = launch(torchrun("failing", folder, options=("--max-restarts", "1")))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "failed").exists()
    make_trainer(tmp_path / "one", args=launched.ARGS).search()
    assert launched.scores(folder) == launched.scores(tmp_path / "one")


def test_ctrl_c_leaves_a_journal_that_goes_on(tmp_path):
    folder = tmp_path / "out"
    process = subprocess.Popen(
        torchrun("search", folder), env=environment(), cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 200
        while (study := find_study(folder / "journal")) is None or len(study.evaluations) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode != 0
    make_trainer(folder, args=launched.ARGS).search()
    make_trainer(tmp_path / "one", args=launched.ARGS).search()
    assert launched.scores(folder) == launched.scores(tmp_path / "one")
