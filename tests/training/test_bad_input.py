"""Every bad input that training can meet: its message, and that nothing was trained or written."""

import errno
import os

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from subtuning_hf.errors import (
    ArgumentsError,
    BlockSelectionError,
    DataError,
    FoldError,
    JournalCorruptError,
    JournalError,
    JournalVersionError,
    MetricNotFoundError,
    NoBlocksFoundError,
    NonFiniteScoreError,
    UnknownBlockError,
)
from subtuning_hf.search.journal import read_study
from subtuning_hf.training import GreedySubTuningTrainer
from training.cases import (
    Rows,
    accuracy,
    assert_same_state,
    count_trainings,
    files_under,
    make_args,
    make_model,
    make_trainer,
    state_of,
)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Run something that must be refused: nothing is trained, nothing written, the model stays as it is."""
    trainings = count_trainings(monkeypatch)

    def check(error, match, *, search=True, **kwargs):
        model = kwargs.pop("model", None)
        model = make_model() if model is None else model
        before = state_of(model)
        with pytest.raises(error, match=match) as caught:
            trainer = make_trainer(tmp_path / "out", model=model, **kwargs)
            before = state_of(model)
            if search:
                trainer.search()
        assert trainings == []
        assert not (tmp_path / "out").exists() or files_under(tmp_path / "out") == []
        assert_same_state(before, state_of(model))
        return caught.value

    return check


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Bare(torch.nn.Module):
    """A module without any block."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(256, 3)

    def forward(self, pixel_values, labels=None):
        logits = self.fc(pixel_values.flatten(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


# --- what the constructor is given ------------------------------------------------------------
@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (
            {"model": get_peft_model(make_model(), LoraConfig(target_modules=["classifier.1"]))},
            "is a PeftModel.*unload",
        ),
        ({"optimizers": (torch.optim.SGD([torch.zeros(1)], lr=1), None)}, "optimizer_cls_and_kwargs"),
        ({"callbacks": [TrainerCallback()]}, "instance of TrainerCallback.*Pass the class"),
        ({"callbacks": TrainerCallback}, "must be a list"),
        ({"callbacks": [3]}, "classes or factories, found 3"),
        ({"callbacks": [dict]}, "returned dict"),
        ({"trainer_cls": dict}, "must be a subclass of transformers.Trainer"),
        ({"trainer_cls": object()}, "subclass of"),
        ({"trainer_cls": GreedySubTuningTrainer}, "searches itself"),
        ({"model_init": make_model}, "Pass `model=`"),
        ({"train_transform": 3}, "`train_transform` must be a function, found int"),
    ],
)
def test_constructor(tmp_path, monkeypatch, kwargs, match):
    trainings = count_trainings(monkeypatch)
    with pytest.raises(ArgumentsError, match=match):
        make_trainer(tmp_path / "out", **kwargs)
    assert trainings == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (None, "found none"),
        ({"num_folds": 2}, "found dict"),
        (TrainingArguments("x", report_to=[], use_cpu=True), "found TrainingArg"),
    ],
)
def test_arguments_of_another_kind(args, match):
    with pytest.raises(ArgumentsError, match=match):
        GreedySubTuningTrainer(model=make_model(), args=args, train_dataset=Rows())


def test_early_stopping_that_nothing_steers(tmp_path):
    with pytest.raises(ArgumentsError, match="needs `eval_strategy` .* and `metric_for_best_model`"):
        make_trainer(tmp_path / "out", callbacks=[EarlyStoppingCallback])
    assert not (tmp_path / "out").exists()


def test_no_model_and_no_module(tmp_path):
    for model in (None, "google/vit", make_model):
        with pytest.raises(ArgumentsError, match=r"`model` must be a torch\.nn\.Module"):
            GreedySubTuningTrainer(model=model, args=make_args(tmp_path / "out"), train_dataset=Rows())


def test_unknown_argument(tmp_path):
    with pytest.raises(TypeError, match="eval_data"):
        make_trainer(tmp_path, eval_data=Rows())


# --- data -------------------------------------------------------------------------------------
def test_data(refused):
    same = Rows(12)
    refused(DataError, "is the `train_dataset`", train_dataset=same, eval_dataset=same)
    refused(DataError, "a stream", train_dataset=Stream())
    refused(DataError, "is empty", train_dataset=[])
    refused(
        DataError, "3 labels, 0 ... 2, but the training data also holds 3", model=make_model(), train_dataset=four()
    )
    refused(FoldError, "5 folds need at least 5 rows, found 3", train_dataset=Rows(3), args={"num_folds": 5})
    refused(ArgumentsError, "`group_column` names column 'patient'", args={"group_column": "patient"})
    refused(ArgumentsError, "Did you mean 'labels'", args={"label_column": "label"})
    refused(ArgumentsError, "never fills", args={"dataloader_drop_last": True, "per_device_train_batch_size": 13})


def four():
    rows = Rows(12)
    rows.classes[5] = 3
    return rows


def test_a_class_missing_from_a_fold(refused):
    rows = Rows(24)
    rows.classes = [0, 1] * 11 + [0, 2]
    refused(FoldError, "class 2 has 1 row", train_dataset=rows)


def test_groups_fewer_than_folds(refused):
    rows = Rows(24, patient=["a"] * 24)
    refused(FoldError, "2 folds need at least 2 groups", train_dataset=rows, args={"group_column": "patient"})


def test_rows_the_model_does_not_take(refused):
    class Wrong(Rows):
        def __getitem__(self, index):
            return {"pixels": self.images[index], "labels": self.classes[index]}

    error = refused(Exception, ".", train_dataset=Wrong())
    assert any("before any training" in note for note in error.__notes__)
    error = refused(KeyError, "oops", eval_transform=lambda item: {"pixel_values": item["oops"]})


def test_a_random_transform_in_the_data_is_warned_about(tmp_path, monkeypatch):
    from transformers.utils import logging

    class Augmented(Rows):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, "pixel_values": item["pixel_values"] + torch.randn(1)}

    warned = []
    monkeypatch.setattr(
        logging.get_logger("subtuning_hf.training.prepare"), "warning", lambda message: warned.append(message)
    )
    make_trainer(tmp_path, train_dataset=Augmented(), args={"max_blocks": 0}).search()
    assert len(warned) == 1 and "carries a random transform of its own" in warned[0]


# --- blocks and metrics -----------------------------------------------------------------------
def test_blocks(refused):
    refused(UnknownBlockError, "nowhere", args={"blocks": ["nowhere"]})
    refused(UnknownBlockError, "7", args={"blocks": [7]})
    refused(BlockSelectionError, "twice", args={"blocks": [1, 1]})
    refused(NoBlocksFoundError, ".", model=Bare())


def test_metrics(refused):
    refused(
        MetricNotFoundError, "'eval_f1'.*returned only eval_accuracy, eval_loss", args={"metric_for_best_model": "f1"}
    )
    refused(MetricNotFoundError, "only eval_loss", compute_metrics=None, args={"metric_for_best_model": "accuracy"})
    refused(
        MetricNotFoundError, "must be a number, but `compute_metrics` returned 'high'",
        compute_metrics=lambda prediction: {"accuracy": "high"}, args={"metric_for_best_model": "accuracy"},
    )  # fmt: skip


def test_a_metric_that_needs_many_rows_is_tried_on_the_whole_fold(tmp_path):
    sizes = []

    def picky(prediction):
        sizes.append(len(prediction.label_ids))
        if len(prediction.label_ids) < 20:
            raise ValueError("too few rows for this metric")
        return accuracy(prediction)

    trainer = make_trainer(
        tmp_path,
        train_dataset=Rows(48),
        compute_metrics=picky,
        args={"max_blocks": 0, "metric_for_best_model": "accuracy"},
    )
    trainer.search()
    assert sizes == [16, 24, 24, 24]


def test_a_metric_that_always_fails_is_its_own_error(refused):
    def broken(prediction):
        raise ValueError("the metric is broken")

    error = refused(ValueError, "the metric is broken", train_dataset=Rows(48), compute_metrics=broken)
    assert any("before any training" in note for note in error.__notes__)


def test_a_loss_that_is_not_finite(refused):
    rows = Rows()
    rows.images[:] = float("nan")
    refused(NonFiniteScoreError, "loss of the untouched model.*is nan.*Nothing was trained", train_dataset=rows)


def test_a_training_that_diverges_records_nothing(tmp_path):
    model = make_model()
    trainer = make_trainer(tmp_path, model=model, args={"learning_rate": 3e38, "max_grad_norm": 0.0, "optim": "sgd"})
    before = state_of(model)
    with pytest.raises(NonFiniteScoreError, match=r"candidate head only on fold 0.*[Ll]ower `learning_rate`"):
        trainer.search()
    assert_same_state(before, state_of(model))
    assert read_study(tmp_path / "journal").evaluations == ()


def test_a_score_that_is_not_finite_records_nothing(tmp_path):
    calls = []

    def undefined(prediction):
        calls.append(1)
        return {"auc": 0.5 if len(calls) == 1 else float("nan")}

    args = {"metric_for_best_model": "auc"}
    with pytest.raises(NonFiniteScoreError, match="'eval_auc' of candidate head only on fold 0 is nan on 12"):
        make_trainer(tmp_path, compute_metrics=undefined, args=args).search()
    assert read_study(tmp_path / "journal").evaluations == ()


def test_a_head_rate_without_a_head(refused):
    from toys import TOYS

    toy = TOYS["gpt2-causal"]
    rows = [{**{k: v[0] for k, v in toy.inputs(1, seed=i).items()}} for i in range(6)]
    data = [{**row, "labels": row["input_ids"]} for row in rows]
    args = {"head_learning_rate": 0.1}
    refused(ArgumentsError, "no output layer of its own", model=toy.build(), train_dataset=data, args=args)


# --- disk -------------------------------------------------------------------------------------
def test_an_output_dir_that_cannot_be_written(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(JournalError, match=r"'.*file' is a file.*Nothing was trained"):
        make_trainer(tmp_path / "file" / "out")
    (tmp_path / "locked").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and real(path, mode))
    with pytest.raises(JournalError, match="is read-only"):
        make_trainer(tmp_path / "locked" / "out")
    assert trainings == [] and files_under(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_takes_nothing_more(tmp_path, monkeypatch, code):
    args = {"max_blocks": 0, "num_folds": 4}
    written = []
    real = os.write

    def full(descriptor, data):
        if b'"evaluation"' in bytes(data):
            written.append(1)
            if len(written) == 3:
                real(descriptor, bytes(data)[:20])
                raise OSError(code, os.strerror(code))
        return real(descriptor, data)

    model = make_model()
    trainer = make_trainer(tmp_path / "out", model=model, args=args)
    before = state_of(model)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="the search continues where it was"):
        trainer.search()
    monkeypatch.setattr(os, "write", real)
    assert_same_state(before, state_of(model))
    assert len(read_study(tmp_path / "out" / "journal").evaluations) == 2
    trainings = count_trainings(monkeypatch)
    make_trainer(tmp_path / "out", args=args).search()
    assert len(trainings) == 2 and len(read_study(tmp_path / "out" / "journal").evaluations) == 4


def test_a_head_that_cannot_be_written(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    from subtuning_hf.training import heads

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(heads, "save_file", full)
    with pytest.raises(JournalError, match=r"initial head cannot be written.*No space left"):
        make_trainer(tmp_path).search()
    assert trainings == [] and not (tmp_path / "journal" / heads.FILE_NAME).exists()


def test_journals_that_cannot_be_used(tmp_path, monkeypatch):
    make_trainer(tmp_path / "out", args={"max_blocks": 0}).search()
    path = tmp_path / "out" / "journal" / "rank-0000.jsonl"
    good = path.read_bytes()
    trainings = count_trainings(monkeypatch)

    def search():
        return make_trainer(tmp_path / "out", args={"max_blocks": 0}).search()

    assert good.count(b'"format":3') == 1
    path.write_bytes(good.replace(b'"format":3', b'"format":99'))
    with pytest.raises(JournalVersionError):
        search()
    lines = good.splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[1:]))
    with pytest.raises(JournalCorruptError, match="line 2"):
        search()
    assert trainings == []
    path.write_bytes(good + b'{"type": "evalua')
    search()
    assert trainings == []


# --- launch -----------------------------------------------------------------------------------
def test_a_launcher_that_started_several_lonely_processes(tmp_path, monkeypatch):
    args = make_args(tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArgumentsError, match="started 2 processes"):
        GreedySubTuningTrainer(model=make_model(), args=args, train_dataset=Rows())


def test_huggingface_tables_are_refused_alike(refused):
    table = datasets.Dataset.from_dict({"x": [1.0], "label": [0]})
    refused(DataError, "is the `train_dataset`", train_dataset=table, eval_dataset=table.with_format("torch"))
    refused(DataError, "is empty", train_dataset=table.select([]))
    refused(FoldError, "2 folds need at least 2 rows", train_dataset=table)
