"""A search in trackers: transformers' own callbacks over recording doubles of the libraries they speak to."""

import logging
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    CodeCarbonCallback,
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    WandbLogModel,
)

from subtuning_hf.search.greedy import replay
from subtuning_hf.search.records import BlockInfo, Evaluation, SearchSpec, StudySpec
from subtuning_hf.search.result import SearchResult
from subtuning_hf.training import reporting
from subtuning_hf.training.reporting import STEP, StudyReporter, markdown

NAMES = ("net.0", "net.1", "net.2")


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(str(tmp_path), report_to=[], run_name="flowers", use_cpu=True)


@pytest.fixture(scope="module")
def search():
    """Evaluations of a small search with the state after each, and its ladder."""
    spec = StudySpec(tuple(BlockInfo(name, 10) for name in NAMES), 2, "accuracy", True)
    asked, evaluations, told = SearchSpec(max_blocks=1), [], []
    while not (state := replay(spec, asked, evaluations)).finished:
        for unit in state.pending:
            score = 0.5 + 0.1 * ("net.1" in unit.candidate.blocks) + 0.01 * unit.fold
            evaluations.append(Evaluation(unit.candidate, unit.fold, score, 10, {}, 7, 1.5))
            told.append((evaluations[-1], len(evaluations), replay(spec, asked, evaluations)))
    return told, SearchResult.from_state(spec, state).to_rows()


def report(reporter, search, close=True):
    told, rows = search
    for each in told:
        reporter.evaluation(*each)
    reporter.ladder(rows)
    if close:
        reporter.close()


# --- doubles of the libraries ----------------------------------------------------------------
class Writer:
    """torch.utils.tensorboard.SummaryWriter."""

    made: list = []  # noqa: RUF012

    def __init__(self, log_dir=None):
        self.log_dir, self.scalars, self.texts, self.closed = log_dir, [], {}, False
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        assert not self.closed
        self.scalars.append((name, value, step))

    def add_text(self, name, text, step=None):
        self.texts[name] = text

    def flush(self):
        assert not self.closed

    def close(self):
        self.closed = True


def tensorboard():
    Writer.made.clear()
    callback = object.__new__(TensorBoardCallback)
    callback._SummaryWriter, callback.tb_writer, callback.logging_dir = Writer, None, None
    return callback


class Wandb(ModuleType):
    """The module wandb, as far as the callback uses it."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logs, self.metrics, self.watched, self.run = [], [], {}, [], None
        self.config = {}
        self.config = type("Config", (dict,), {"update": lambda self, *a, **k: dict.update(self, *a)})()

    def init(self, **settings):
        self.inits.append(settings)
        self.run = SimpleNamespace(_label=lambda **_: None, id="1", name="flowers", summary={})

    def define_metric(self, name, step_metric=None, step_sync=None):
        self.metrics[name] = step_metric

    def watch(self, *args, **kwargs):
        self.watched.append(args)

    def log(self, values):
        self.logs.append(values)

    class Table:
        def __init__(self, columns, data):
            self.columns, self.data = columns, data


@pytest.fixture
def wandb(monkeypatch):
    for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.sdk.lib.config_util"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["wandb.sdk.lib.config_util"].ConfigError = type("ConfigError", (Exception,), {})
    callback = object.__new__(WandbCallback)
    callback._wandb, callback._initialized, callback._log_model = Wandb(), False, WandbLogModel.END
    return callback


def trackio():
    callback = object.__new__(TrackioCallback)
    module = SimpleNamespace(inits=[], logs=[], finished=0, config=type("Config", (dict,), {})())
    type(module.config).update = lambda self, *a, **k: None
    module.init = lambda **settings: module.inits.append(settings)
    module.log = module.logs.append
    module.Table = lambda dataframe: dataframe
    module.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
    callback._trackio, callback._initialized, callback._space_id, callback._static_space_id = module, False, None, None
    return callback


def mlflow():
    """An integration without a table."""
    callback = object.__new__(MLflowCallback)
    module = SimpleNamespace(__version__="3.0.0", runs=0, logs=[], run=None)

    def start_run(**_):
        module.runs, module.run = module.runs + 1, SimpleNamespace(info=SimpleNamespace(run_id="1"))

    module.is_tracking_uri_set, module.get_tracking_uri = lambda: True, lambda: "file:"
    module.active_run, module.start_run, module.log_params = lambda: module.run, start_run, lambda *a, **k: None
    module.end_run = lambda: None
    module.log_metrics = lambda metrics, step, synchronous: module.logs.append((step, metrics))
    callback._ml_flow, callback._initialized, callback._auto_end_run = module, False, False
    callback._MAX_PARAM_VAL_LENGTH, callback._MAX_PARAMS_TAGS_PER_BATCH = 250, 100
    return callback


# --- what each of them shows -----------------------------------------------------------------
def test_tensorboard_has_one_run_with_points_and_a_table(args, search):
    callback = tensorboard()
    report(StudyReporter(args, [callback]), search)
    (writer,) = Writer.made
    assert writer.log_dir.startswith(args.output_dir) and writer.closed
    scores = [(value, step) for name, value, step in writer.scalars if name == "search/score"]
    assert scores == [(evaluation.score, number) for evaluation, number, _ in search[0]]
    assert writer.texts["search/ladder"] == markdown(search[1])
    # The final training goes on in the same folder, which TensorBoard shows as one run.
    folder = callback.logging_dir
    callback.on_train_begin(args, SimpleNamespace(is_world_process_zero=True, is_hyper_param_search=False), None)
    assert Writer.made[1].log_dir == folder == writer.log_dir


def test_points_tell_round_and_best(args, search):
    callback = tensorboard()
    report(StudyReporter(args, [callback]), search)
    shown = {}
    for name, value, step in Writer.made[0].scalars:
        shown.setdefault(step, {})[name.removeprefix("search/")] = value
    first, last = shown[1], shown[len(search[0])]
    assert (first["round"], first["blocks"], first["fold"], first["seconds"]) == (0, 0, 0, 1.5)
    assert "best" not in first  # nothing is decided before the head has all folds
    assert last["round"] == 1 and last["best"] == pytest.approx(0.605) and shown[3]["best"] == pytest.approx(0.505)
    assert last["trainable_parameters"] == 7 and last["budget"] == 1.0


def test_wandb_has_one_run_that_the_final_training_continues(args, search, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_WATCH", "all")
    report(StudyReporter(args, [wandb]), search)
    module = wandb._wandb
    assert [settings["name"] for settings in module.inits] == ["flowers"]
    assert [log["search/score"] for log in module.logs[:-1]] == [evaluation.score for evaluation, *_ in search[0]]
    assert [log[STEP] for log in module.logs[:-1]] == list(range(1, len(search[0]) + 1))
    assert all(module.metrics[name] == STEP for log in module.logs[:-1] for name in log if name != STEP)
    table = module.logs[-1]["search/ladder"]
    assert table.columns == list(search[1][0]) and len(table.data) == len(search[1]) == 2
    # No model was there to watch or upload; what the user asked for holds again afterwards.
    assert not module.watched and os.environ["WANDB_WATCH"] == "all" and wandb._log_model is WandbLogModel.END
    wandb._log_model = WandbLogModel.FALSE
    state = SimpleNamespace(
        is_world_process_zero=True, is_hyper_param_search=False, trial_name=None, logging_steps=1, global_step=1
    )
    model = SimpleNamespace(config={"hidden": 3}, num_parameters=lambda: 9)
    wandb.on_train_begin(args, state, None, model=model)
    assert len(module.inits) == 1 and module.config["hidden"] == 3 and module.watched == [(model,)]


def test_trackio_has_one_run_with_a_table(args, search):
    pytest.importorskip("pandas")
    callback = trackio()
    report(StudyReporter(args, [callback]), search)
    module = callback._trackio
    assert [settings["name"] for settings in module.inits] == ["flowers"]
    assert [log[STEP] for log in module.logs[:-1]] == list(range(1, len(search[0]) + 1))
    table = module.logs[-1]["search/ladder"]
    assert list(table["change"]) == ["start", "add"] and not table.isna().any().any()
    assert callback._initialized  # so that the final training does not begin another run


def test_a_tracker_without_tables_gets_a_point_for_each_step(args, search):
    callback = mlflow()
    report(StudyReporter(args, [callback]), search)
    module = callback._ml_flow
    assert module.runs == 1 and module.run is not None
    assert [step for step, metrics in module.logs if "search/score" in metrics] == list(range(1, len(search[0]) + 1))
    ladder = {step: metrics for step, metrics in module.logs if "search/ladder/mean" in metrics}
    assert {step: metrics["search/ladder/mean"] for step, metrics in ladder.items()} == {
        row["round"]: row["mean"] for row in search[1]
    }
    assert "search/ladder/reason" not in ladder[1] and "search/ladder/gain" not in ladder[0]


def test_real_tensorboard_reads_it_back(args, search):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = TensorBoardCallback()
    report(StudyReporter(args, [callback]), search)
    found = EventAccumulator(callback.logging_dir)
    found.Reload()
    assert [point.step for point in found.Scalars("search/score")] == list(range(1, len(search[0]) + 1))
    assert "search/ladder/text_summary" in found.Tags()["tensors"]


def test_a_whole_search_is_one_run(tmp_path):
    """Candidates have trainers of their own, which report nothing; the final training goes on where the search was."""
    from training.cases import make_trainer

    trainer = make_trainer(tmp_path, args={"max_blocks": 1})
    callback = tensorboard()
    trainer.add_callback(callback)
    trainer.search()
    (writer,) = Writer.made
    assert [step for name, _, step in writer.scalars if name == "search/score"] == list(
        range(1, len(trainer.study().evaluations) + 1)
    )
    assert "search/ladder" in writer.texts and not [name for name, *_ in writer.scalars if "loss" in name]
    trainer.train()
    assert {made.log_dir for made in Writer.made} == {writer.log_dir}
    assert "train/train_loss" in {name for made in Writer.made for name, *_ in made.scalars}


# --- who is told, and who is not -------------------------------------------------------------
def test_only_reporting_integrations_are_told(args, search):
    told = []

    class Own(TrainerCallback):
        def on_log(self, *args, **kwargs):
            told.append("log")

        def on_train_begin(self, *args, **kwargs):
            told.append("begin")

    power = object.__new__(CodeCarbonCallback)  # an integration that takes no values
    power.tracker = SimpleNamespace(start=lambda: told.append("power"))
    report(StudyReporter(args, [Own(), power]), search)
    assert not told


def test_a_subclass_of_an_integration_is_told(args, search):
    callback = tensorboard()
    callback.__class__ = type("Ours", (TensorBoardCallback,), {})
    report(StudyReporter(args, [callback]), search)
    assert Writer.made[0].scalars


def test_every_integration_with_values_can_be_told():
    """Whatever transformers adds: it is told by the events of a Trainer, which it understands."""

    def bare(kind):
        return type(kind.__name__, (kind,), {"__init__": lambda self: None, "__del__": lambda self: None})()

    told = [name for name, kind in INTEGRATION_TO_CALLBACK.items() if reporting._reports(bare(kind))]
    assert {"tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "clearml", "swanlab"} <= set(told)
    assert "codecarbon" not in told


def test_nothing_is_opened_without_an_evaluation(args):
    callback = tensorboard()
    reporter = StudyReporter(args, [callback])
    reporter.ladder([])
    reporter.close()
    assert not Writer.made and callback.tb_writer is None


# --- trackers that fail ----------------------------------------------------------------------
@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_tracker_that_fails_is_told_of_once_and_others_go_on(args, search, warnings):
    class Broken(Writer):
        def add_scalar(self, name, value, step):
            raise OSError("disk full")

    good, bad = tensorboard(), tensorboard()
    bad._SummaryWriter = Broken
    report(StudyReporter(args, [bad, good]), search)
    assert [text for text in warnings() if "TensorBoardCallback" in text and "OSError: disk full" in text] == warnings()
    assert len(warnings()) == 1
    healthy = [writer for writer in Writer.made if type(writer) is Writer]
    assert len({step for *_, step in healthy[0].scalars}) == len(search[0])


def test_a_tracker_that_cannot_begin_is_as_it_was(args, search, wandb, warnings):
    def refuse(**_):
        raise RuntimeError("no API key")

    wandb._wandb.init = refuse
    report(StudyReporter(args, [wandb]), search)
    assert len(warnings()) == 1 and "no API key" in warnings()[0]
    assert wandb._initialized is False and wandb._log_model is WandbLogModel.END and "WANDB_WATCH" not in os.environ


def test_an_interrupt_is_no_failure_of_a_tracker(args, search):
    class Interrupted(Writer):
        def add_scalar(self, name, value, step):
            raise KeyboardInterrupt

    callback = tensorboard()
    callback._SummaryWriter = Interrupted
    with pytest.raises(KeyboardInterrupt):
        report(StudyReporter(args, [callback]), search)


# --- the table -------------------------------------------------------------------------------
def test_markdown():
    rows = [{"block": None, "mean": 0.123456789, "n": 3}, {"block": "a|b\nc", "mean": 1.0, "n": 10}]
    assert markdown(rows).split("\n") == [
        "| block | mean | n |",
        "| --- | --- | --- |",
        "|  | 0.123457 | 3 |",
        "| a\\|b c | 1 | 10 |",
    ]
