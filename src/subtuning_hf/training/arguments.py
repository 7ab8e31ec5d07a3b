"""
The arguments of a search: `TrainingArguments`, plus what is asked of the search itself.

Every field of `TrainingArguments` means what it means there; the score of the search is its `metric_for_best_model`.
Knows nothing of models and data.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..blocks.granularity import GRANULARITIES
from ..errors import ArgumentsError
from ..search.records import DIRECTIONS, PRUNERS, STRATEGIES
from ..tuner.initialise import INITS
from .argument_checks import check_folds, check_search, check_serving, check_training
from .world import join_restarted

# Schedules that are steered by an evaluation in the middle of training.
_METRIC_SCHEDULES = tuple(
    getattr(SchedulerType, name) for name in ("REDUCE_ON_PLATEAU", "GREEDY") if hasattr(SchedulerType, name)
)


@dataclass
class GreedySubTuningArguments(TrainingArguments):
    """
    Arguments of [`GreedySubTuningTrainer`].

    No default of `TrainingArguments` is changed. The score that the search maximises is `metric_for_best_model` with
    `greater_is_better`, by default `eval_loss`, lower better, as in [`~transformers.Trainer`]; `"accuracy"` and
    `"eval_accuracy"` mean the same. Epochs, batch sizes, schedule, seed and precision hold for each candidate's
    training and for the final training alike.

    Args:
        num_folds (`int`, *optional*, defaults to 5):
            Parts into which the training set is cut; each candidate is trained that often. Ignored with
            `fold_column` or a `validation_dataset`.
        strategy (`str`, *optional*, defaults to `"short-profile"`):
            How candidates are judged. `"exact"`, the original's search, trains each candidate on each fold. The others
            predict scores for a part of `search_budget` and spend the rest on training a few of the best predicted
            candidates: `"short-profile"` trains every block for a short time, all side by side, and the best four once
            more for longer, for which it takes up to one full fine-tune, others half of the budget, and takes the best
            with up to two others no more than two standard errors behind it; `"one-shot"` trains random
            selections with shared weights; `"swap"` takes blocks out of one short full fine-tune; `"kernel"` regresses
            on gradient features; `"statistics"` re-estimates the running statistics of each block's norms.
            Predictions have a scale of their own, on which `min_gain` says nothing; the two are refused together. By
            themselves they never choose no block: a few steps teach a head more than a block.
        search_budget (`float`, *optional*, defaults to 1.0):
            What a search with predictions may cost, in full fine-tunes of all training rows with these arguments,
            counted in arithmetic.
        min_gain (`float`, *optional*):
            Least gain in score for which a block is added, the paper's epsilon: 0.01 is one point of accuracy. By
            default a block must gain more than one standard error of the paired differences over folds, or
            with a single fold anything above 0.
        direction (`str`, *optional*, defaults to `"forward"`):
            `"forward"` starts from no block and adds one in each round. `"backward"` starts from all blocks and removes
            one in each round; a candidate then holds a copy of every block that it trains, beside the frozen ones, and
            the optimiser's state of all of them. `"best"` runs both and keeps the better result. `"list"` compares the
            selections in `candidates` in one round.
        candidates (`list[list[str | int]]` or `str`, *optional*):
            For `direction="list"`: selections as names, indices or patterns; or `"pairs"`, or `"windows:2"` for all
            runs of two consecutive blocks.
        granularity (`str`, *optional*, defaults to `"block"`):
            What is chosen from: whole `"stage"`s, `"block"`s, or `"submodule"`s of blocks (attention, MLP, norm,
            convolution); see `find_blocks`. Indices and patterns, here and in `train(blocks=...)`, are of these.
        start_from (`str`, *optional*):
            Folder or Hub name (`user/adapter`, `user/adapter@revision`) of an adapter of the same base, with the
            journal of its search: candidates nearest to its blocks are tried first. Its scores are never used. An exact
            search decides as it does without. One that predicts spends at most half of `search_budget` on predictions,
            and trains this selection beside the one that it predicts best.
        max_blocks (`int`, *optional*):
            Most blocks that are chosen.
        max_trainable_parameters (`int`, *optional*):
            Most parameters that are trained, head included, as `print_trainable_parameters` counts them.
        pruner (`str`, *optional*, defaults to `"none"`):
            How candidates are dropped before all their trainings are made. `"none"`: never, as in the paper. `"race"`:
            after each fold, those that a paired t test finds behind the leader. `"halving"`: all are trained for a
            small share of the epochs first, and the best of them for longer. `"certain"`: after each fold, those that
            cannot win any more whatever their remaining folds give: the same decisions as with `"none"`.
        confidence (`float`, *optional*, defaults to 0.95):
            One-sided confidence of each test of the race.
        reduction (`int`, *optional*, defaults to 3):
            Of so many candidates halving keeps one, which then trains so many times longer.
        smallest_budget (`float`, *optional*, defaults to 1/9):
            Share of the epochs that halving begins with.
        score_limit (`float`, *optional*):
            For pruner `"certain"`: the best value that the metric can take. Known by itself for `eval_loss` (0) and
            metrics between 0 and 1 whose name says so (accuracy, f1, precision, recall, auc).
        latency_profile (`str`, *optional*):
            Path of a `latency.json` that `subtuning latency` has written for this model: the result then says what the
            chosen blocks add to the latency of serving many tasks on one trunk.
        serving_tasks (`int`, *optional*):
            Tasks that will be served together: what the profile was measured for, which is refused otherwise.
        serving_batch (`int`, *optional*):
            Rows that are served at once, one of the sizes of the profile; by default its only one.
        max_added_latency (`float`, *optional*):
            Most latency that the chosen blocks may add, in passes of the base (0.5: half a pass more than for one
            task). Candidates beyond it are not trained. `"backward"` starts from all blocks that keep it alone.
        serving_aware (`bool`, *optional*, defaults to `False`):
            In each round, take the candidate that adds least latency among the best and those that are worth it too and
            behind the best by no more than one standard error of the paired differences over folds; of equally cheap
            ones the best. Whether a round adds a block is decided by the best. For strategy `"exact"`.
        speculate (`bool`, *optional*, defaults to `False`):
            With several processes: let those that would wait for the end of a round begin with the next one, as if the
            present leader wins. Saves time if it does, and makes evaluations that nobody needed if not.
        blocks (`list[str | int]`, *optional*):
            The blocks to choose from: names, indices or glob patterns. By default all that `find_blocks` finds.
        stratify (`bool`, *optional*, defaults to `True`):
            Cut folds with equal shares of each label where labels are classes.
        label_column (`str`, *optional*):
            Column of the class labels, for stratification. By default `"label"` or `"labels"`.
        group_column (`str`, *optional*):
            Column of a group (patient, document, author): no group is ever split between folds.
        fold_column (`str`, *optional*):
            Column that says which fold validates a row, for folds of your own.
        fold_seed (`int`, *optional*):
            Seed of the folds; by default `seed`.
        head_learning_rate (`float`, *optional*):
            Peak learning rate of the head, if it shall differ from the blocks' `learning_rate`.
        inner_validation_fraction (`float`, *optional*, defaults to 0.2):
            Share of a fold's training rows kept apart inside a candidate's training when that training itself needs
            an evaluation: `load_best_model_at_end`, early stopping, or a schedule steered by a metric. The rows that
            score a candidate never steer its training.
        dry_run (`bool`, *optional*, defaults to `False`):
            `search()` then prints and returns the plan with an estimate of its time, and trains nothing.
        study_tag (`str`, *optional*, defaults to `""`):
            Any text. Part of the study's identity: change it when something changes that the arguments and the code
            of your functions do not show.
        prefix_cache (`bool`, *optional*, defaults to `True`):
            Compute what lies before a candidate's first tuned block once per row, and begin its training and scoring
            there. Scores are those of an uncached search up to rounding. Switches itself off where a model does not
            allow it, and says so.
        prefix_cache_gb (`float`, *optional*, defaults to 4.0):
            Most memory for that, in units of 1e9 bytes; with several processes disk space below `output_dir` instead,
            which the processes of a machine share. What saves least is left out first.
        augmentation_views (`int`, *optional*):
            Of a random `train_transform`: show this many views of each row, drawn from the seed, the row and the view,
            so that all candidates see the same ones and what lies before the first tuned block can be kept. Epoch e
            shows view e modulo this number. By default every reading draws a new view, and training is not cached; so
            does the final training where caching it does not pay.
        init_head (`str`, *optional*, defaults to `"model"`):
            What the head starts from: `"model"`, as it is given, or `"fit"`, the linear head fitted in closed form to
            the frozen model's features of the training rows (of the fold, in a search), as in LP-FT.
        init_blocks (`str`, *optional*, defaults to `"pretrained"`):
            What tuned blocks start from: `"pretrained"`, or `"random"` weights drawn from the seed. For strategy
            `"exact"`, since predictions are made with pretrained blocks, and for `train(blocks=...)`.
        num_threads (`int`, *optional*):
            CPU threads of torch during search and training; recorded with the study. By default as torch has it.

    Raises: [`ArgumentsError`]: If a value means nothing here.
    """

    num_folds: int = field(default=5, metadata={"help": "Parts into which the training set is cut."})
    strategy: str = field(
        default="short-profile", metadata={"help": "How candidates are judged.", "choices": list(STRATEGIES)}
    )
    search_budget: float = field(
        default=1.0, metadata={"help": "What a search with predictions may cost, in full fine-tunes."}
    )
    min_gain: float | None = field(
        default=None,
        metadata={"help": "Least gain in score for a block to be added; by default one standard error over folds."},
    )
    direction: str = field(
        default="forward", metadata={"help": "Where the search starts and goes.", "choices": list(DIRECTIONS)}
    )
    candidates: Any = field(
        default=None, metadata={"help": "Selections to compare with direction 'list'; or 'pairs', or 'windows:2'."}
    )
    granularity: str = field(default="block", metadata={"help": "What is chosen from.", "choices": list(GRANULARITIES)})
    start_from: str | None = field(
        default=None, metadata={"help": "An adapter of the same base whose blocks are tried first."}
    )
    max_blocks: int | None = field(default=None, metadata={"help": "Most blocks that are chosen."})
    max_trainable_parameters: int | None = field(
        default=None, metadata={"help": "Most parameters that are trained, head included."}
    )
    pruner: str = field(
        default="none", metadata={"help": "How candidates are dropped early.", "choices": list(PRUNERS)}
    )
    confidence: float = field(default=0.95, metadata={"help": "One-sided confidence of each test of pruner 'race'."})
    reduction: int = field(default=3, metadata={"help": "Of so many candidates pruner 'halving' keeps one."})
    smallest_budget: float = field(
        default=1 / 9, metadata={"help": "Share of the epochs that pruner 'halving' begins with."}
    )
    score_limit: float | None = field(
        default=None, metadata={"help": "Best value the metric can take, for pruner 'certain'."}
    )
    latency_profile: str | None = field(
        default=None, metadata={"help": "A latency.json of this model, written by `subtuning latency`."}
    )
    serving_tasks: int | None = field(default=None, metadata={"help": "Tasks that will be served together."})
    serving_batch: int | None = field(default=None, metadata={"help": "Rows that are served at once."})
    max_added_latency: float | None = field(
        default=None, metadata={"help": "Most latency that the blocks may add, in passes of the base."}
    )
    serving_aware: bool = field(
        default=False, metadata={"help": "Of candidates that are about as good, take the one cheapest to serve."}
    )
    speculate: bool = field(default=False, metadata={"help": "Let idle processes begin with the likely next round."})
    blocks: list[str] | None = field(
        default=None, metadata={"help": "Blocks to choose from: names, indices or patterns. By default all."}
    )
    stratify: bool = field(default=True, metadata={"help": "Cut folds with equal shares of each label."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the class labels."})
    group_column: str | None = field(default=None, metadata={"help": "Column of a group that no fold splits."})
    fold_column: str | None = field(default=None, metadata={"help": "Column with the fold that validates a row."})
    fold_seed: int | None = field(default=None, metadata={"help": "Seed of the folds; by default `seed`."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the head; by default `learning_rate`."}
    )
    inner_validation_fraction: float = field(
        default=0.2,
        metadata={"help": "Share of a candidate's training rows for its own early stopping or best checkpoint."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the search and train nothing."})
    study_tag: str = field(default="", metadata={"help": "Any text that tells this study from others."})
    prefix_cache: bool = field(
        default=True, metadata={"help": "Compute what lies before the first tuned block once per row."}
    )
    prefix_cache_gb: float = field(
        default=4.0, metadata={"help": "Most memory for it, or disk space with several processes, in 1e9 bytes."}
    )
    augmentation_views: int | None = field(
        default=None, metadata={"help": "Views of each row that a random train_transform shows; by default endless."}
    )
    init_head: str = field(
        default="model", metadata={"help": "What the head starts from.", "choices": ["model", "fit"]}
    )
    init_blocks: str = field(
        default="pretrained", metadata={"help": "What tuned blocks start from.", "choices": list(INITS)}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch; recorded with the study."})

    def __post_init__(self) -> None:
        if self.greater_is_better is not None and self.metric_for_best_model is None:
            raise ArgumentsError(
                f"`greater_is_better={self.greater_is_better}` says which way a metric is better, but "
                "`metric_for_best_model` names none. Name it, such as 'accuracy', or leave both out for eval_loss."
            )
        if int(os.environ.get("WORLD_SIZE") or 1) > 1 and not torch.accelerator.is_available():
            # Without it, accelerate starts no process group on a machine that has no accelerator, and each process
            # would believe to be alone.
            self.use_cpu = True
        join_restarted(self)
        super().__post_init__()
        check_search(self)
        check_folds(self)
        check_serving(self)
        check_training(self)

    @property
    def score_name(self) -> str:
        """`str`: the metric that is the score, with its `eval_` prefix."""
        name = self.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    @property
    def score_greater_is_better(self) -> bool:
        """`bool`: whether a greater value of the metric is better."""
        if self.greater_is_better is not None:
            return bool(self.greater_is_better)
        return not self.score_name.endswith("loss")

    @property
    def best_score(self) -> float | None:
        """`float`: the best possible score, in what is maximised; `None` where it is not known."""
        limit = self.score_limit
        if limit is None and self.score_name == "eval_loss":
            limit = 0.0
        if limit is None and any(word in _SHARES for word in self.score_name.replace("-", "_").split("_")):
            limit = 1.0 if self.score_greater_is_better else None
        return None if limit is None else float(limit) * (1 if self.score_greater_is_better else -1)

    @property
    def resolved_fold_seed(self) -> int:
        """`int`: the seed that the folds are cut with."""
        return self.seed if self.fold_seed is None else self.fold_seed

    @property
    def evaluates_while_training(self) -> bool:
        """`bool`: whether a training with these arguments needs rows to evaluate on (callbacks aside)."""
        return bool(self.load_best_model_at_end) or self.lr_scheduler_type in _METRIC_SCHEDULES

    @property
    def folder(self) -> Path:
        """`Path`: `output_dir`."""
        return Path(str(self.output_dir))

    def for_candidate(self, output_dir: str, keep_evaluation: bool) -> GreedySubTuningArguments:
        """
        Arguments for one candidate's training: the same learning, none of the reporting.

        Args:
            output_dir (`str`): A temporary folder.
            keep_evaluation (`bool`): Whether the training evaluates (and saves) on an inner split as it goes.

        Returns: [`GreedySubTuningArguments`], a copy.
        """
        # A plain copy, since `dataclasses.replace` would run `__post_init__` on values it has changed already.
        args: Any = copy.copy(self)
        for name, value in _CANDIDATE.items():
            if hasattr(args, name):
                setattr(args, name, value)
        args.output_dir = output_dir
        if not (keep_evaluation and self.load_best_model_at_end):
            args.save_strategy = type(self.save_strategy)("no")
            args.load_best_model_at_end = False
        else:
            # The best checkpoint is only loaded again: no optimiser state, and none but the best and the last.
            args.save_total_limit = 1
            args.save_only_model = True
        if not keep_evaluation:
            args.eval_strategy = type(self.eval_strategy)("no")
            args.eval_on_start = False
        args.logging_strategy = type(self.logging_strategy)("no")
        # Trainer would spread a batch over all the GPUs it sees, and make it as many times larger.
        args._n_gpu = min(self.n_gpu, 1)
        return args


# Words in names of metrics that lie between 0 and 1.
_SHARES = frozenset(["accuracy", "f1", "precision", "recall", "auc"])

# What differs in a candidate's training whatever the arguments say. A NaN must show, so nothing filters it.
_CANDIDATE: dict[str, Any] = {
    "report_to": [],
    "push_to_hub": False,
    "disable_tqdm": True,
    "logging_first_step": False,
    "logging_nan_inf_filter": False,
    "resume_from_checkpoint": None,
    "skip_memory_metrics": True,
    "log_level": "passive",
    "enable_jit_checkpoint": False,
    "debug": [],
    "dry_run": False,
    # A candidate is trained by one process, whatever the final training is spread over.
    "deepspeed": None,
    "deepspeed_plugin": None,
    "fsdp": [],
    "fsdp_plugin_args": None,
    "parallelism_config": None,
}
