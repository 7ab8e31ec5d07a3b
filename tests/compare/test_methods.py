"""Each method trains what it says, at the rates it says; choosers see the training rows alone."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import PretrainedConfig

from compare.test_compare import WIDTH, Net, accuracy, collate, rows_of
from subtuning_hf import SubTuningConfig
from subtuning_hf.compare import METHODS, RunLog, Task, check_methods, compare, design, difference, tune
from subtuning_hf.compare.choosing import contiguous, middle_settings
from subtuning_hf.compare.closed import FittedProbe, own_head
from subtuning_hf.compare.harness import Bench, Run, Trials
from subtuning_hf.compare.method import middle_of_best, pack_hits, refine, unpack_hits
from subtuning_hf.compare.partial import AutoRGN, GradualUnfreezing, LayerWiseDecay, ProbeThenFull, SmallParameters
from subtuning_hf.compare.training import split_rates
from subtuning_hf.errors import ArgumentsError, JournalBusyError, JournalError, NonFiniteScoreError
from subtuning_hf.proposal.fast_head import fit_head
from subtuning_hf.search.folds import make_folds
from subtuning_hf.search.lock import FileLock

MIDDLE = middle_settings(1e-2)


class Normed(Net):
    """With a batch norm in each layer."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.layers:
            layer.up = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.BatchNorm1d(2 * WIDTH))


def make_task(kind=Net, epochs=2):
    torch.manual_seed(0)
    arguments = {"num_train_epochs": epochs, "per_device_train_batch_size": 8, "use_cpu": True, "report_to": []}
    return Task(
        kind(PretrainedConfig(num_labels=2)), rows_of(36, 0), rows_of(30, 1), arguments, accuracy, data_collator=collate
    )


def trained(method, task, settings, **kept):
    """The model as a method leaves it, which runs do not give out."""
    found = {}
    original = type(method).prepare

    def prepare(self, *args):
        found["model"] = original(self, *args)
        return found["model"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "prepare", prepare)
        found["run"] = method.run(task, settings, 0, task.train, task.test)
    return found["model"], found["run"]


def changed(model, task):
    before = task.model.state_dict()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


# --- trials -----------------------------------------------------------------------------------
@pytest.mark.parametrize("trials", [1, 2, 4, 7])
def test_every_hyperparameter_is_tried_at_as_many_values_as_there_are_trials(trials):
    points = design(trials)
    assert len(points) == trials
    assert all(len({point[column] for point in points}) == trials for column in range(4))
    assert [METHODS["LoRA"].settings(point, 1e-3)["rank"] for point in design(4)] == [32, 16, 4, 2]
    assert points == design(trials) and points == sorted(points)


def test_four_rates_lie_a_factor_of_four_apart():
    rates = [METHODS["FT"].settings(point, 1e-2)["learning_rate"] for point in design(4)]
    assert rates == [0.00125, 0.005, 0.02, 0.08]
    assert [METHODS["LP"].settings(point, 1e-2)["learning_rate"] for point in design(4)] == [0.02, 0.08, 0.32, 1.28]
    assert "head_factor" not in METHODS["LP"].settings(design(1)[0], 1e-2)


def test_further_trials_lie_beyond_the_edge_or_beside_the_best():
    points = design(4)  # first coordinates 0.125, 0.375, 0.625, 0.875
    assert refine(points, [3, 2, 1, 0]) == (-0.125, *points[0][1:])
    assert refine(points, [0, 1, 2, 3]) == (1.125, *points[3][1:])
    assert refine(points, [0, 3, 2, 1]) == (0.5, *points[1][1:])
    assert refine(points, [2, 3, -float("inf"), 1]) == (0.25, *points[1][1:])
    assert refine([*points, (0.5, 9, 9, 9)], [0, 3, 2, 1, 2.5]) == (0.4375, *points[1][1:])
    assert refine(design(1), [1]) == (0.25, 0.5, 0.5, 0.5)
    rates = [METHODS["FT"].settings(point, 1e-2)["learning_rate"] for point in ((-0.125, 0.5), (1.125, 0.5))]
    assert rates == [0.000313, 0.32]  # a factor of 4 beyond 0.00125 and 0.08


@pytest.mark.parametrize(
    ("scores", "place"), [([1, 2, 3], 2), ([3, 3, 1], 0), ([3, 3, 3, 1], 1), ([1, 3, 0, 3, 3], 3), ([2], 0)]
)
def test_of_equal_trials_the_middle_one_is_the_best(scores, place):
    assert middle_of_best(scores) == place


def test_every_method_has_as_many_trials_and_the_edge_moves(tmp_path):
    found = compare(
        make_task(), ["LP", "FT", "Head2Toe"], learning_rate=1e-4, num_seeds=1, num_folds=2, output_dir=tmp_path
    )
    assert {len(one.settings) for one in found.trials.values()} == {6}
    tried = [one["learning_rate"] for one in found.trials["FT"].settings]
    assert tried[:4] == [1.25e-5, 5e-5, 2e-4, 8e-4] and len(set(tried)) == 6
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 3 * (6 + 1)  # nothing is trained twice


def test_hits_come_back():
    for hits in ([True], [False, False, True], [False] * 9, [True, False] * 40):
        assert unpack_hits(pack_hits(hits)) == hits


# --- what trains ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(("SubT", "sur", "rand", "LoRA in"))])
def test_every_method_learns_and_leaves_the_model_alone(name):
    task = make_task(epochs=8)
    before = copy.deepcopy(task.model.state_dict())
    settings = METHODS[name].settings((0.5, 0.5, 0.5), 1e-2)
    run = METHODS[name].run(task, settings, 0, task.train, task.train)
    assert run["score"] > 0.6 and run["num_examples"] == 36 and run["adapter_bytes"] > 0
    assert sum(unpack_hits(run["hits"])) == round(36 * run["score"])
    assert all(torch.equal(tensor, before[key]) for key, tensor in task.model.state_dict().items())
    again = METHODS[name].run(task, settings, 0, task.train, task.train)
    assert again["score"] == run["score"] and again["hits"] == run["hits"]


@pytest.mark.parametrize(("name", "ends"), [("BitFit", (".bias",)), ("norms", (".up.1.weight", ".up.1.bias"))])
def test_small_parameters_and_the_head_are_all_that_changes(name, ends):
    task = make_task(Normed)
    model, run = trained(SmallParameters(name), task, MIDDLE)
    parameters = {key for key in changed(model, task) if key in dict(model.named_parameters())}
    assert parameters and all(key.endswith(ends) or key.startswith("classifier") for key in parameters)
    assert any(not key.startswith("classifier") for key in parameters)
    assert run["trainable_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["LoRA", "DoRA", "LP"])
def test_frozen_batch_norms_keep_their_statistics(name):
    task = make_task(Normed)
    model, _ = trained(METHODS[name], task, {**MIDDLE, "rank": 2})
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert norms and all(int(norm.num_batches_tracked) == 0 for norm in norms)
    tuned, _ = trained(METHODS["FT"], task, MIDDLE)
    assert all(int(m.num_batches_tracked) > 0 for m in tuned.modules() if isinstance(m, nn.BatchNorm1d))


def test_rates_by_depth():
    task = make_task()
    found = LayerWiseDecay().factors(task.model, {"decay": 0.5, "head_factor": 3.0})
    assert found["layers.2.up.weight"] == 1.0 and found["layers.0.up.weight"] == 0.25
    assert found["classifier.weight"] == 3.0


def test_split_rates_keeps_everything_else():
    weight, bias = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    other = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW(
        [{"params": [weight, other], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}], lr=2.0
    )
    split_rates(optimizer, {id(weight): 3.0, id(bias): 3.0})
    groups = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert groups == {id(weight): (6.0, 0.1), id(other): (2.0, 0.1), id(bias): (6.0, 0.0)}


def test_blocks_are_unfrozen_from_the_top():
    task, free = make_task(), []
    (callback,) = GradualUnfreezing().callbacks(task.model, MIDDLE)

    class State:
        max_steps = 100

    for step in range(100):
        State.global_step = step
        callback.on_step_begin(None, State, None)
        free.append([layer.up.weight.requires_grad for layer in task.model.layers])
        assert task.model.classifier.weight.requires_grad
    assert free[0] == [False, False, False] and free[50] == [True, True, True]
    assert sorted(free) == free  # nothing is frozen again, and never a block below a frozen one
    assert [False, False, True] in free and [False, True, True] in free


def test_relative_gradients_scale_the_rates_of_blocks():
    task = make_task()
    task.model.layers[0].up.weight.data.mul_(100)
    task.model.layers[0].down.weight.data.mul_(100)
    method = AutoRGN()
    (callback,) = method.callbacks(task.model, MIDDLE)
    batches = [collate([task.train[n] for n in range(at, at + 8)]) for at in (0, 8)]
    callback.on_epoch_begin(None, None, None, model=task.model, train_dataloader=batches)
    weights = [callback.weights[id(layer.up.weight)] for layer in task.model.layers]
    assert max(weights) == 1.0 and weights[0] < 0.2 * max(weights)
    first, last = task.model.layers[0].up.weight, task.model.classifier.bias
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [last]}], 1.0)
    callback.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
    assert optimizer.param_groups[0]["lr"] == weights[0] and optimizer.param_groups[1]["lr"] == 1.0


def test_the_head_is_fitted_before_everything_trains():
    task = make_task()
    model = ProbeThenFull().prepare(copy.deepcopy(task.model), MIDDLE, task, task.train)
    assert changed(model, task) == {"classifier.weight", "classifier.bias"}
    with torch.no_grad():
        rows = collate([task.train[n] for n in range(36)])
        right = (model(rows["x"]).logits.argmax(-1) == rows["labels"]).float().mean()
        drawn = (task.model(rows["x"]).logits.argmax(-1) == rows["labels"]).float().mean()
    assert right > drawn and right > 0.6


# --- whole comparisons ------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 24])
def test_contiguous_groups_hold_each_block_once(count):
    names = [str(n) for n in range(count)]
    groups = contiguous(names, 4)
    assert [name for group in groups for name in group] == names
    assert len(groups) == min(count, 4) and max(map(len, groups)) - min(map(len, groups)) <= 1


def test_a_comparison_is_made_once_and_never_touches_the_test_rows_to_choose(tmp_path):
    task = make_task()
    names = ["SubTuning, exact", "LP", "surgical", "random blocks", "LoRA in chosen blocks"]
    asked = {"learning_rate": 1e-2, "num_trials": 2, "num_seeds": 2, "num_folds": 2}
    asked["search_arguments"] = {"max_blocks": 1}
    found = compare(task, names, output_dir=tmp_path, **asked)
    assert [row["method"] for row in found.rows] == [name for name in METHODS if name in names]
    by_name = {row["method"]: row for row in found.rows}
    assert by_name["surgical"]["choosing"]["trainings"] == 3 * 2 and by_name["LP"]["choosing"]["trainings"] == 0
    assert by_name["SubTuning, exact"]["choosing"]["trainings"] >= 8
    assert "against" not in by_name["SubTuning, exact"] and by_name["LP"]["against"]["method"] == "SubTuning, exact"
    lines = (tmp_path / "runs.jsonl").read_bytes()
    calls = []
    again = compare(task, names, output_dir=tmp_path, on_run=lambda: calls.append(1), **asked)
    assert (tmp_path / "runs.jsonl").read_bytes() == lines and again.to_json() == found.to_json()
    tests = [line for line in lines.decode().splitlines() if '"scored": "test"' in line]
    assert len(tests) == len(set(tests)) and {'"seed": 0', '"seed": 1'} == {
        seed for line in tests for seed in ('"seed": 0', '"seed": 1') if seed in line
    }
    table = found.table()
    assert all(name in table for name in names) and "less SubTuning, exact" in table


def test_the_default_search_is_compared_too(tmp_path):
    few = {"num_trials": 1, "num_seeds": 1, "num_folds": 2}
    found = compare(make_task(epochs=12), ["LP", "SubTuning"], learning_rate=1e-2, output_dir=tmp_path, **few)
    assert found.ours == "SubTuning" and len(found.rows) == 2
    assert found.rows[0]["spread"] is None and found.rows[0]["against"]["over_seeds"] is None


def test_rules_of_exact_searches_do_not_stop_the_default_one():
    few = {"num_trials": 1, "num_seeds": 1, "num_folds": 2}
    rules = {"min_gain": 0.01, "max_blocks": 1}
    found = compare(
        make_task(epochs=12), ["SubTuning", "SubTuning, exact"], learning_rate=1e-2, search_arguments=rules, **few
    )
    words = {row["method"]: row["choosing"]["words"] for row in found.rows}
    assert "short-profile" in words["SubTuning"] and "0.01" in words["SubTuning, exact"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "Found none"),
        (["LP", "Lora"], "Found Lora"),
        (["LP", "LP"], "names one twice"),
        (["LP", "random blocks"], "follows SubTuning's choice: add"),
    ],
)
def test_wrong_methods(names, words):
    with pytest.raises(ArgumentsError, match=words):
        check_methods(names)


@pytest.mark.parametrize("wrong", [{"num_trials": 0}, {"num_seeds": 0}, {"num_folds": 1}, {"tuning_folds": 4}])
def test_wrong_numbers(wrong):
    with pytest.raises(ArgumentsError, match=f"`{next(iter(wrong))}`"):
        compare(make_task(), ["LP"], learning_rate=1e-2, **wrong)


def test_a_trial_that_diverges_is_never_the_best():
    task, folds = make_task(), make_folds(36, 2, 0)
    found = tune(task, METHODS["FT"], [{"learning_rate": 1e25}, {"learning_rate": 1e-3}], folds, 0)
    assert found.fold_scores[0] == (None, None) and found.mean(0) == -float("inf")
    assert found.best == {"learning_rate": 1e-3} and found.best_mean > 0
    with pytest.raises(NonFiniteScoreError, match="FT .* Try lower rates"):
        tune(task, METHODS["FT"], [{"learning_rate": 1e25}], folds, 0)
    with pytest.raises(NonFiniteScoreError):
        METHODS["FT"].run(task, {"learning_rate": 1e25}, 0, task.train, task.test)


def test_a_final_training_that_diverges_gives_way_to_the_next_best_trial(monkeypatch):
    """The best trial on the fold may diverge on all rows."""
    task, folds = make_task(), make_folds(36, 2, 0)
    method, original = METHODS["FT"], type(METHODS["FT"]).run

    def run(self, task, settings, seed, rows, scored):
        if scored is task.test and settings["learning_rate"] > 1e-3 and seed == 1:
            raise NonFiniteScoreError("diverged")
        return original(self, task, settings, seed, rows, scored)

    monkeypatch.setattr(type(method), "run", run)
    bench = Bench(task, tuple(folds), 0, 1e-3, MIDDLE, RunLog())
    tried = tuple({"learning_rate": rate} for rate in (1e-2, 1e-3))
    tuned = Trials(method, tried, ((0.9, 0.9), (0.5, 0.5)), (18, 18), 1.0)
    with pytest.raises(NonFiniteScoreError, match="diverged"):
        bench.final(tuned.without(1), [0, 1])
    kept, runs = bench.final(tuned, [0, 1])
    assert kept.best == {"learning_rate": 1e-3} and all(one["score"] is not None for one in runs)
    assert bench.run([Run(method, {"learning_rate": 1e-2}, 1)])[0] == {
        "score": None, "diverged": "diverged", "seconds": pytest.approx(0, abs=9),
    }  # fmt: skip


def with_adapter(model):
    get_peft_model(model, SubTuningConfig(blocks=["layers.0"]))
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "eval_loss"}, "less is better"),
        ({"arguments": {"num_train_epoch": 1}}, "found 'num_train_epoch'. Did you mean 'num_train_epochs'"),
        ({"arguments": {"learning_rate": 1e-3}}, "'learning_rate', which each run of a comparison sets for itself"),
        ({"arguments": {"output_dir": "x"}}, "'output_dir', which"),
        ({"test": rows_of(30, 1).select([])}, "`test` has no rows"),
        ({"train": [{"x": [0.0] * WIDTH, "label": 0}]}, "`train` must be a datasets.Dataset, found list"),
        ({"model": with_adapter(make_task().model)}, "holds adapters"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_task_that_no_method_could_be_given_is_refused(change, words):
    with pytest.raises(ArgumentsError, match=words):
        replace(make_task(), _identity=[], **change)


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan"), float("inf"), "1e-3"])
def test_rates_that_are_none(rate):
    with pytest.raises(ArgumentsError, match="`learning_rate` must be a number above 0"):
        compare(make_task(), ["LP"], learning_rate=rate)


# --- paired differences -----------------------------------------------------------------------
def run(score, hits=None):
    return {"score": score} | ({} if hits is None else {"hits": pack_hits(hits)})


def test_differences_count_seeds_and_rows():
    ours, theirs = [run(0.8), run(0.9)], [run(0.6), run(0.7)]
    found = difference(ours, theirs)
    assert found.mean == pytest.approx(0.2) and found.error == pytest.approx(0.0, abs=1e-12) and found.outcome == "wins"
    assert difference(theirs, ours).outcome == "loses" and difference(ours, ours).outcome == "ties"
    right = [True] * 8 + [False] * 2
    other = [True] * 6 + [False] * 4
    found = difference([run(0.8, right)], [run(0.6, other)])
    assert found.over_seeds is None and found.error == pytest.approx(0.4216 / 10**0.5, rel=1e-3)
    assert found.outcome == "ties"  # 0.2 ± 0.13 on ten rows
    found = difference([run(0.8, right * 9)], [run(0.6, other * 9)])
    assert found.outcome == "wins"


def test_errors_of_scores_that_are_no_share_of_right_rows_count_seeds_alone():
    right, other = [True] * 8 + [False] * 2, [True] * 6 + [False] * 4
    found = difference([run(0.7, right), run(0.8, right)], [run(0.5, other), run(0.55, other)])  # such as F1
    assert found.over_rows is None and found.error == found.over_seeds


def test_few_seeds_have_wide_intervals():
    """Student's t: 12.7 standard errors with two seeds, 2.78 with five."""
    two = difference([run(0.8), run(0.9)], [run(0.7), run(0.72)])
    assert two.freedom == 1 and two.margin == pytest.approx(12.706 * two.error, rel=1e-3) and two.outcome == "ties"
    gaps = [0.06, 0.1, 0.12, 0.08, 0.14]
    five = difference([run(0.5 + gap) for gap in gaps], [run(0.5)] * 5)
    assert five.freedom == 4 and five.margin == pytest.approx(2.776 * five.error, rel=1e-3) and five.outcome == "wins"
    both = difference([run(0.8, [True] * 8 + [False] * 2)] * 2, [run(0.6, [True] * 6 + [False] * 4)] * 2)
    assert both.over_seeds == 0 and both.freedom == 9


# --- heads ------------------------------------------------------------------------------------
def test_a_fitted_head_starts_from_the_one_that_is_there():
    """However heavy the penalty, a head that knows the classes does not forget its weights."""
    task = make_task()
    weight, bias = own_head(task.model)
    seen = {}

    def fit(features, labels, classes, ridge, start=None):
        seen["start"] = start and tuple(part.clone() for part in start)  # the layer is written to afterwards
        return fit_head(features, labels, classes, 1e6, start=start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subtuning_hf.compare.closed.fit_head", fit)
        model = ProbeThenFull().prepare(copy.deepcopy(task.model), {}, task, task.train)
        assert torch.allclose(own_head(model)[0], weight, atol=1e-4) and torch.equal(seen["start"][1], bias)
        FittedProbe().run(task, {"ridge": 0.1}, 0, task.train, task.test)
        assert torch.equal(seen["start"][0], weight)
        METHODS["Head2Toe"].run(task, {"ridge": 0.1, "share": 1.0}, 0, task.train, task.test)
        assert seen["start"] is None  # on features that the head has never seen


def test_lora_and_norms_trains_norms_with_their_statistics():
    task = make_task(Normed)
    method = METHODS["LoRA and norms"]
    settings = method.settings((0.5, 0.5, 0.5, 0.5), 1e-2)
    model, found = trained(method, task, settings)
    plain = METHODS["LoRA"].run(task, settings, 0, task.train, task.test)
    norms = 3 * 2 * 2 * WIDTH
    assert found["trainable_parameters"] == plain["trainable_parameters"] + norms
    base = model.get_base_model()
    assert all(not torch.equal(layer.up[1].running_mean, torch.zeros(2 * WIDTH)) for layer in base.layers)
    assert method.key() != METHODS["LoRA"].key()


def test_heads_learn_at_the_same_rates_in_every_method():
    """Rates of small parameters are four times as high, and those of their heads are not."""
    for point in design(4):
        plain, small = (METHODS[name].settings(point, 1e-2) for name in ("FT", "LoRA"))
        assert small["learning_rate"] == pytest.approx(4 * plain["learning_rate"], rel=1e-2)
        heads = [one["learning_rate"] * one["head_factor"] for one in (plain, small)]
        assert heads[0] == pytest.approx(heads[1], rel=1e-2)


# --- folders ----------------------------------------------------------------------------------
def test_a_folder_has_one_writer_and_can_be_written_to(tmp_path):
    few = {"learning_rate": 1e-2, "num_trials": 1, "num_refinements": 0, "num_seeds": 1, "num_folds": 2}
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(JournalError, match="is a file"):
        compare(make_task(), ["LP"], output_dir=file, **few)
    (tmp_path / "busy").mkdir()
    lock = FileLock(tmp_path / "busy" / "runs.jsonl.lock")
    with pytest.raises(JournalBusyError, match=r"runs.jsonl is being written by process \d+"):
        compare(make_task(), ["LP"], output_dir=tmp_path / "busy", **few)
    assert not (tmp_path / "busy" / "runs.jsonl").exists()
    lock.close()
    compare(make_task(), ["LP"], output_dir=tmp_path / "busy", **few)


def test_a_search_that_cannot_be_made_says_so_before_anything_is_trained(tmp_path):
    few = {"learning_rate": 1e-2, "num_trials": 1, "num_refinements": 0, "num_seeds": 1, "num_folds": 2}
    with pytest.raises(ArgumentsError, match="`search_budget` is 0.001") as caught:
        little = {"search_budget": 0.001}
        compare(make_task(), ["LP", "FT", "SubTuning"], output_dir=tmp_path, search_arguments=little, **few)
    assert "method 'SubTuning' of the comparison" in caught.value.__notes__[0]
    assert not (tmp_path / "runs.jsonl").exists()
