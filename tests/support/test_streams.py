"""Streams: rows to evaluate and predict, with and without a transform; refused where rows must be picked."""

import datasets
import pytest
import torch

from subtuning_hf.errors import DataError
from training.cases import Rows, files_under, make_trainer


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        rows = Rows(12, seed=3)
        return (rows[i] for i in range(len(rows)))


class Counted(Stream):
    def __len__(self):
        return 12


def streamed():
    rows = [{"pixel_values": row["pixel_values"].tolist(), "labels": row["labels"]} for row in Rows(12, seed=3)]
    return datasets.Dataset.from_list(rows).to_iterable_dataset()


STREAMS = {"torch": Stream, "with a length": Counted, "datasets": streamed}


def twice(rows):
    """Twice as bright: a batch of `datasets`, or one row."""
    seen = rows["pixel_values"]
    return {**rows, "pixel_values": [2 * torch.as_tensor(v) for v in seen] if isinstance(seen, list) else 2 * seen}


@pytest.fixture(params=STREAMS)
def stream(request):
    return STREAMS[request.param]


@pytest.mark.parametrize("transform", [None, twice])
def test_a_stream_to_evaluate_is_as_good_as_rows(stream, transform, tmp_path):
    """The search leaves it alone; training evaluates on it, and it is scored and predicted like the same rows."""
    found = []
    for name, evaluation in (("stream", stream()), ("rows", Rows(12, seed=3))):
        args = {"max_blocks": 1, "eval_strategy": "epoch", "blocks": [0, 2]}
        trainer = make_trainer(tmp_path / name, eval_dataset=evaluation, args=args, eval_transform=transform)
        blocks = trainer.search().blocks
        trainer.train()
        predictions = trainer.predict(evaluation).predictions
        assert len(predictions) == 12
        trainer.save_model(str(tmp_path / name / "adapter"))
        found.append((blocks, trainer.evaluate()["eval_loss"], trainer.evaluate(evaluation)["eval_loss"], predictions))
    ours, theirs = found
    assert ours[0] == theirs[0]
    assert ours[1:3] == pytest.approx(theirs[1:3], rel=1e-5) and ours[1] == pytest.approx(ours[2])
    assert abs(ours[3] - theirs[3]).max() < 1e-4


@pytest.mark.parametrize("role", ["train_dataset", "validation_dataset"])
def test_rows_that_are_picked_may_not_stream(stream, role, tmp_path):
    with pytest.raises(DataError, match=f"`{role}` is a .*, a stream: folds need rows that can be counted"):
        make_trainer(tmp_path / "out", **{role: stream()})
    assert files_under(tmp_path) == []


def test_rows_that_are_recorded_may_not_stream(stream, tmp_path):
    trainer = make_trainer(tmp_path / "out")
    with pytest.raises(DataError, match="a stream: .*that can be counted and read again"):
        trainer.repeat(stream(), 1, blocks=[1])
    assert files_under(tmp_path) == []
