"""Arguments: what they refuse, what the score is, and what a candidate's copy changes."""

import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.training.arguments import GreedySubTuningArguments
from training.cases import make_args


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_folds": 1}, "`num_folds` must be a whole number of 2 or more, found 1"),
        ({"num_folds": 2.5}, "num_folds"),
        ({"num_folds": True}, "num_folds"),
        ({"strategy": "magic"}, "one of exact, short-profile, one-shot, swap, kernel, statistics, found 'magic'"),
        ({"strategy": "kernels"}, "found 'kernels'. Did you mean 'kernel'"),
        ({"strategy": "kernel", "search_budget": 0}, "`search_budget` must be a number above 0, found 0"),
        ({"strategy": "kernel", "search_budget": float("inf")}, "search_budget"),
        ({"strategy": "kernel", "search_budget": "1"}, "search_budget"),
        (
            {"strategy": "short-profile", "min_gain": 0.01},
            "min_gain=0.01 is a gain in score, but strategy='short-profile'",
        ),
        ({"strategy": "kernel", "pruner": "race"}, "Leave the pruner out, or set strategy='exact'"),
        ({"min_gain": -0.1}, "`min_gain` must be a number of 0 or more"),
        ({"min_gain": float("nan")}, "min_gain"),
        ({"min_gain": "0.1"}, "min_gain"),
        ({"max_blocks": -1}, "max_blocks"),
        ({"blocks": "layer1"}, r"Did you mean \['layer1'\]"),
        ({"blocks": 3}, r"Did you mean \[3\]"),
        ({"blocks": []}, r"train\(blocks=\[\]\)"),
        ({"group_column": ""}, "name of a column"),
        ({"head_learning_rate": 0.0}, "head_learning_rate"),
        ({"head_learning_rate": "1e-3"}, "head_learning_rate"),
        ({"inner_validation_fraction": 1.0}, "share between 0 and 1"),
        ({"num_threads": 0}, "num_threads"),
        ({"study_tag": 3}, "study_tag"),
        ({"fold_seed": -1}, "fold_seed"),
        ({"num_train_epochs": 0}, "Nothing would be trained"),
        ({"greater_is_better": True}, "names none"),
        ({"auto_find_batch_size": True}, "could not be compared"),
    ],
)
def test_meaningless_values_are_refused(tmp_path, changes, message):
    with pytest.raises(ArgumentsError, match=message):
        make_args(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_unknown_argument_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="num_fold"):
        make_args(tmp_path, num_fold=3)


@pytest.mark.parametrize("name", ["fp16_full_eval", "bf16_full_eval"])
def test_casting_the_base_for_good_is_refused(tmp_path, name):
    with pytest.raises(ArgumentsError, match=name):
        make_args(tmp_path, **{name: True})


@pytest.mark.parametrize(
    ("changes", "name", "greater"),
    [
        ({}, "eval_loss", False),
        ({"metric_for_best_model": "accuracy"}, "eval_accuracy", True),
        ({"metric_for_best_model": "eval_accuracy"}, "eval_accuracy", True),
        ({"metric_for_best_model": "error", "greater_is_better": False}, "eval_error", False),
        ({"metric_for_best_model": "eval_my_loss"}, "eval_my_loss", False),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}, "eval_loss", False),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}, "eval_loss", False),
    ],
)
def test_score(tmp_path, changes, name, greater):
    args = make_args(tmp_path, **changes)
    assert (args.score_name, args.score_greater_is_better) == (name, greater)
    again = dataclasses.replace(args)
    assert (again.score_name, again.score_greater_is_better) == (name, greater)


def test_no_default_of_training_arguments_changes():
    ours = {f.name: f for f in dataclasses.fields(GreedySubTuningArguments)}
    for theirs in dataclasses.fields(TrainingArguments):
        assert ours[theirs.name].default == theirs.default
        assert ours[theirs.name].default_factory == theirs.default_factory


def test_every_field_has_help_and_the_parser_takes_it(tmp_path):
    added = {f.name: f for f in dataclasses.fields(GreedySubTuningArguments)}
    for name in {f.name for f in dataclasses.fields(TrainingArguments)}:
        del added[name]
    assert len(added) > 12
    for field in added.values():
        assert field.metadata["help"]
        assert f"{field.name} (" in (GreedySubTuningArguments.__doc__ or "")
    line = f"--output_dir {tmp_path} --use_cpu --strategy exact --num_folds 3 --min_gain 0.01 --blocks a.0 a.1"
    line += " --head_learning_rate 0.1"
    (args,) = HfArgumentParser(GreedySubTuningArguments).parse_args_into_dataclasses(line.split())
    assert (args.num_folds, args.min_gain, args.blocks, args.head_learning_rate) == (3, 0.01, ["a.0", "a.1"], 0.1)


def test_a_candidates_copy_keeps_learning_and_drops_reporting(tmp_path):
    args = make_args(
        tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, learning_rate=0.5,
        report_to=["tensorboard"], logging_strategy="steps", disable_tqdm=False,
    )  # fmt: skip
    before = args.to_dict()
    plain, inner = args.for_candidate("elsewhere", False), args.for_candidate("elsewhere", True)
    assert args.to_dict() == before
    for copy in (plain, inner):
        assert copy.output_dir == "elsewhere" and copy.learning_rate == 0.5
        assert copy.report_to == [] and copy.logging_strategy == "no" and copy.disable_tqdm
        assert not copy.logging_nan_inf_filter and not copy.push_to_hub
    assert (plain.eval_strategy, plain.save_strategy, plain.load_best_model_at_end) == ("no", "no", False)
    assert (inner.eval_strategy, inner.save_strategy, inner.load_best_model_at_end) == ("epoch", "epoch", True)
    assert args.evaluates_while_training
