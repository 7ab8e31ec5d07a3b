"""
Checks of the arguments of a search: each says what was expected, what was found, and the way out.

Knows the arguments alone; what must fit models, data and files is checked where these are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..blocks.granularity import GRANULARITIES
from ..errors import ArgumentsError
from ..search.records import DIRECTIONS, PRUNERS, STRATEGIES
from ..tuner.initialise import INITS
from .values import check_choice, check_int, check_number

if TYPE_CHECKING:
    from .arguments import GreedySubTuningArguments


# Words in names of metrics that are better the lower they are.
_ERRORS = frozenset(["error", "mse", "rmse", "mae", "mape", "wer", "cer", "ter", "perplexity", "brier", "ece", "hinge"])


def check_search(args: GreedySubTuningArguments) -> None:
    """What is searched and how."""
    check_choice("strategy", args.strategy, STRATEGIES)
    check_choice("direction", args.direction, DIRECTIONS)
    check_choice("granularity", args.granularity, GRANULARITIES)
    check_choice("pruner", args.pruner, PRUNERS)
    _check_candidates(args)
    check_number("search_budget", args.search_budget, "a number above 0", lambda v: v > 0)
    if args.strategy != "exact" and args.pruner != "none":
        raise ArgumentsError(
            f"pruner='{args.pruner}' drops candidates of an exact search, but strategy='{args.strategy}' trains "
            "few of them. Leave the pruner out, or set strategy='exact'."
        )
    if args.strategy != "exact" and args.min_gain is not None:
        raise ArgumentsError(
            f"min_gain={args.min_gain} is a gain in score, but strategy='{args.strategy}' predicts on a scale of its "
            "own. Leave min_gain out, or set strategy='exact', the original's search."
        )
    check_number("confidence", args.confidence, "a share between 0.5 and 1", lambda v: 0.5 < v < 1)
    check_int("reduction", args.reduction, 2)
    check_number("smallest_budget", args.smallest_budget, "a share between 0 and 1", lambda v: 0 < v < 1)
    if args.score_limit is not None:
        check_number("score_limit", args.score_limit, "a number, or None", lambda v: True)
    if args.pruner == "certain" and args.best_score is None:
        raise ArgumentsError(
            f"pruner='certain' must know the best value that '{args.score_name}' can take. Give it as "
            "`score_limit`: 1.0 for shares such as an accuracy, 0.0 for losses that cannot be negative."
        )
    if args.max_trainable_parameters is not None:
        check_int("max_trainable_parameters", args.max_trainable_parameters, 0)
    if args.min_gain is not None:
        check_number("min_gain", args.min_gain, "a number of 0 or more, or None", lambda v: v >= 0)
    if args.max_blocks is not None:
        check_int("max_blocks", args.max_blocks, 0)
    if args.start_from is not None and (not isinstance(args.start_from, str) or not args.start_from):
        raise ArgumentsError(f"`start_from` must be the folder or Hub name of an adapter, found {args.start_from!r}.")
    if args.num_threads is not None:
        check_int("num_threads", args.num_threads, 1)
    check_choice("init_head", args.init_head, ("model", "fit"))
    check_choice("init_blocks", args.init_blocks, INITS)
    if args.strategy != "exact" and args.init_blocks != "pretrained":
        raise ArgumentsError(
            f"strategy='{args.strategy}' predicts what pretrained blocks give when they are tuned, but "
            f"init_blocks='{args.init_blocks}' starts them anew. Leave `init_blocks` out, or set strategy='exact'."
        )
    check_number("prefix_cache_gb", args.prefix_cache_gb, "a number of 0 or more", lambda v: v >= 0)
    if args.augmentation_views is not None:
        check_int("augmentation_views", args.augmentation_views, 1)
        if not args.prefix_cache or args.torch_compile or args.neftune_noise_alpha:
            raise ArgumentsError(
                "`augmentation_views` are what the cache keeps of each row, and there is none with "
                "`prefix_cache=False`, `torch_compile` or `neftune_noise_alpha`. Leave it out, or these."
            )
    if not isinstance(args.study_tag, str):
        raise ArgumentsError(f"`study_tag` must be text, found {args.study_tag!r}.")
    if args.blocks is not None:
        if isinstance(args.blocks, str | int) or not hasattr(args.blocks, "__iter__"):
            raise ArgumentsError(f"`blocks` must be a list, found {args.blocks!r}. Did you mean [{args.blocks!r}]?")
        args.blocks = list(args.blocks)
        if not args.blocks:
            raise ArgumentsError(
                "`blocks` lists the blocks to choose from, and is empty. Leave it out for all blocks; to train "
                "the head alone, call train(blocks=[])."
            )


def _check_candidates(args: GreedySubTuningArguments) -> None:
    if (args.direction == "list") != (args.candidates is not None):
        raise ArgumentsError(
            f"`candidates` are compared with direction='list', and only there; found direction={args.direction!r} "
            f"and candidates={args.candidates!r}. Give both or neither."
        )
    if args.candidates is None:
        return
    if isinstance(args.candidates, str):
        name, _, size = args.candidates.partition(":")
        if args.candidates != "pairs" and not (name == "windows" and size.isdigit() and int(size) > 0):
            raise ArgumentsError(
                f"`candidates` must be a list of selections, 'pairs' or 'windows:2', found {args.candidates!r}."
            )
        return
    listed = isinstance(args.candidates, list | tuple) and len(args.candidates) > 0
    if not listed or any(isinstance(one, str | int) or not hasattr(one, "__iter__") for one in args.candidates):
        raise ArgumentsError(
            f"`candidates` must be a list of lists of blocks, such as [[0], [0, 3]], found {args.candidates!r}."
        )
    args.candidates = [list(selection) for selection in args.candidates]
    if not all(args.candidates):
        raise ArgumentsError(
            "`candidates` holds an empty selection: the head alone, which every search compares with anyway. "
            "Leave it out."
        )


def check_folds(args: GreedySubTuningArguments) -> None:
    """How the training set is cut."""
    check_int("num_folds", args.num_folds, 2, " One validation set of your own goes into `validation_dataset`.")
    if args.fold_seed is not None:
        check_int("fold_seed", args.fold_seed, 0)
    for name in ("label_column", "group_column", "fold_column"):
        value = getattr(args, name)
        if value is not None and (not isinstance(value, str) or not value):
            raise ArgumentsError(f"`{name}` must be the name of a column, found {value!r}.")
    fraction = args.inner_validation_fraction
    check_number("inner_validation_fraction", fraction, "a share between 0 and 1", lambda v: 0 < v < 1)


def check_training(args: GreedySubTuningArguments) -> None:
    """How a candidate is trained."""
    if args.head_learning_rate is not None:
        check_number("head_learning_rate", args.head_learning_rate, "a number above 0, or None", lambda v: v > 0)
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ArgumentsError(
            f"Nothing would be trained: `num_train_epochs` is {args.num_train_epochs} and `max_steps` is "
            f"{args.max_steps}. Give one of them a value above 0."
        )
    if args.auto_find_batch_size:
        raise ArgumentsError(
            "`auto_find_batch_size` would let candidates train with different batch sizes, and their scores could "
            "not be compared. Find the batch size once and set `per_device_train_batch_size`."
        )
    if args.load_best_model_at_end and args.eval_strategy == "no":
        raise ArgumentsError(
            "`load_best_model_at_end` loads the best of the checkpoints that were evaluated, and eval_strategy='no' "
            "evaluates none. Set `eval_strategy` and `save_strategy` to 'epoch', or leave it out."
        )
    _check_direction(args)
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if getattr(args, name, False):
            raise ArgumentsError(
                f"`{name}` casts the whole model for good, and all later candidates would start from it. Use "
                f"`{name.removesuffix('_full_eval')}=True`, or load the model in that precision."
            )


def _check_direction(args: GreedySubTuningArguments) -> None:
    words = args.score_name.replace("-", "_").lower().split("_")
    error = next((word for word in words if word in _ERRORS), None)
    if error is not None and "neg" not in words and args.score_greater_is_better:
        raise ArgumentsError(
            f"'{args.metric_for_best_model}' is better the lower it is, but greater_is_better is "
            f"{args.greater_is_better}, by which the worst would be chosen. Set `greater_is_better=False`."
        )


def check_serving(args: GreedySubTuningArguments) -> None:
    """What serving may cost; the profile itself is read when a search begins."""
    path = args.latency_profile
    if path is not None and (not isinstance(path, str) or not path):
        raise ArgumentsError(f"`latency_profile` must be the path of a latency.json, found {path!r}.")
    for name, least in (("serving_tasks", 2), ("serving_batch", 1)):
        if getattr(args, name) is not None:
            check_int(name, getattr(args, name), least)
    if args.max_added_latency is not None:
        check_number("max_added_latency", args.max_added_latency, "a number of 0 or more, or None", lambda v: v >= 0)
    if not isinstance(args.serving_aware, bool):
        raise ArgumentsError(f"`serving_aware` must be True or False, found {args.serving_aware!r}.")
    names = ("serving_tasks", "serving_batch", "max_added_latency")
    given = [name for name in names if getattr(args, name) is not None] + ["serving_aware"] * args.serving_aware
    if given and path is None:
        raise ArgumentsError(
            f"`{given[0]}` needs to know what blocks cost to serve. Measure it (`subtuning latency MODEL`) and give "
            "the file as `latency_profile='latency.json'`."
        )
    if args.serving_aware and args.strategy != "exact":
        raise ArgumentsError(
            f"`serving_aware` compares candidates that were trained on every fold, but strategy='{args.strategy}' "
            "trains few. Use `max_added_latency`, which it keeps, or strategy='exact'."
        )
    if args.serving_aware and args.pruner == "certain":
        raise ArgumentsError(
            "`serving_aware` may take a candidate that is about as good as the best, but pruner='certain' drops what "
            "cannot be the best. Use pruner='race' or 'none'."
        )
