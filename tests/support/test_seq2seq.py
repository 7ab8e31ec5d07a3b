"""Models that generate, through Seq2SeqTrainer and its arguments."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer
from subtuning_hf.search.journal import read_study


@dataclass
class Arguments(GreedySubTuningArguments, Seq2SeqTrainingArguments):
    pass


def make_model():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


class Pairs(Dataset):
    def __init__(self):
        self.tokens = torch.randint(1, 40, (16, 6), generator=torch.Generator().manual_seed(0))
        self.wanted = self.tokens[:, :4]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, row):
        return {"input_ids": self.tokens[row], "labels": self.wanted[row]}


def test_generated_texts_are_scored(tmp_path):
    generated = []

    def match(prediction):
        generated.append(prediction.predictions.shape)
        assert np.issubdtype(prediction.predictions.dtype, np.integer)  # tokens, not logits
        return {"match": float((prediction.predictions[:, 1:4] == prediction.label_ids[:, :3]).mean())}

    model = make_model()
    args = Arguments(
        str(tmp_path), strategy="exact", num_folds=2, max_blocks=1, num_train_epochs=1, per_device_train_batch_size=4,
        predict_with_generate=True, generation_max_length=5, metric_for_best_model="match", greater_is_better=True,
        min_gain=0.0, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = GreedySubTuningTrainer(
        model, args, train_dataset=Pairs(), trainer_cls=Seq2SeqTrainer, compute_metrics=match
    )
    trainer.search()
    evaluations = read_study(tmp_path / "journal").evaluations
    assert isinstance(trainer, Seq2SeqTrainer) and evaluations and all(0 <= each.score <= 1 for each in evaluations)
    trainer.train(blocks=[-1])
    found = trainer.evaluate(Pairs(), max_length=6, num_beams=2)
    assert set(found) >= {"eval_match", "eval_loss"}
    assert torch.is_tensor(trainer.model.generate(Pairs()[0]["input_ids"][None]))
    assert len(generated) >= len(evaluations) + 1
