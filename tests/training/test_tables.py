"""A search on a `datasets.Dataset`, on a plain module and on text: the same trainer, nothing special."""

import datasets
import pytest
import torch
from transformers import Trainer

from subtuning_hf.search.journal import read_study
from toys import TOYS
from training.cases import Untouchable, make_images, make_trainer


def table(rows=24):
    images, labels = make_images(rows)
    features = {"image": images[:, 0].numpy().tolist(), "label": labels, "note": ["x"] * rows}
    data = datasets.Dataset.from_dict(features)
    return data.cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))


def to_pixels(batch):
    return {"pixel_values": [torch.tensor(image)[None] for image in batch["image"]], "labels": batch["label"]}


def scores(folder):
    return [e.score for e in read_study(folder / "journal").evaluations]


def test_transforms_of_a_table_need_no_column_to_be_kept(tmp_path):
    trainer = make_trainer(
        tmp_path / "a", train_dataset=table(), train_transform=to_pixels, eval_transform=to_pixels,
        eval_dataset=Untouchable(), args={"max_blocks": 1},
    )  # fmt: skip
    trainer.search()
    reference = make_trainer(tmp_path / "b", args={"max_blocks": 1})
    reference.search()
    assert scores(tmp_path / "a") == scores(tmp_path / "b")  # Rows() holds the same images
    trainer.train()
    assert trainer.evaluate(table())["eval_accuracy"] == trainer.predict(table()).metrics["test_accuracy"]


def test_a_table_in_the_right_format_needs_no_transform(tmp_path):
    data = table().map(lambda row: {"pixel_values": [row["image"]]}, remove_columns=["image", "note"])
    data = data.rename_column("label", "labels").with_format("torch")
    make_trainer(tmp_path / "a", train_dataset=data, args={"max_blocks": 0}).search()
    make_trainer(tmp_path / "b", args={"max_blocks": 0}).search()
    assert scores(tmp_path / "a") == scores(tmp_path / "b")


class PlainLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return (loss, {"logits": logits}) if return_outputs else loss


@pytest.mark.parametrize("name", ["plain-resnet", "timm-vit"])
def test_a_module_that_computes_no_loss(tmp_path, name):
    pytest.importorskip("timm")
    toy = TOYS[name]
    rows = [{**{k: v[0] for k, v in toy.inputs(1, seed=i).items()}, "labels": i % 3} for i in range(12)]
    args = {"max_blocks": 1, "blocks": [0, -1], "remove_unused_columns": False, "label_names": ["labels"]}
    trainer = make_trainer(tmp_path, model=toy.build(), train_dataset=rows, trainer_cls=PlainLoss, args=args)
    trainer.train()
    assert len(scores(tmp_path)) == 6
    assert trainer.predict(rows).metrics["test_loss"] > 0


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_text(tmp_path, name):
    toy = TOYS[name]
    rows = [{**{k: v[0] for k, v in toy.inputs(1, seed=i).items()}, "labels": i % 3} for i in range(12)]
    args = {"max_blocks": 1, "blocks": [0, -1]}
    model = toy.build()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainer = make_trainer(tmp_path, model=model, train_dataset=rows, args=args)
    trainer.search()
    assert len(scores(tmp_path)) == 6
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
