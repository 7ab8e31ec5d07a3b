"""The studies that `evidence.py` shows: title, table, command, words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """
    A table of a study.

    Args:
        title (`str`): Heading.
        file (`str`): Below the results; nothing is shown of one that is not there.
        command (`str`): What made it.
        words (`str`): What it is.
        heading (`str`, *optional*): What the table follows in the file; the first one by default.
        picture (`str`, *optional*): Beside the file.
        also (`str`, *optional*): Lines of the file that begin so are shown too.
    """

    title: str
    file: str
    command: str
    words: str
    heading: str = ""
    picture: str = ""
    also: str = "\0"  # no line


_OUT = "--output-dir benchmarks/results"

CHOOSING = (
    Study(
        "The default search against the exact one",
        "../../docs/proxies.md",
        f"python benchmarks/proxies/choose.py --bench BENCH {_OUT}/proxies",
        "Both selections trained on all rows with the same five seeds, over which ± is the standard error. The greedy "
        "search was run on `contrast-300`, `trec6-200` and `digits-300` only; elsewhere `exact` is the best single "
        "block. The rules of the default search (two rounds; what is no more "
        "than two standard errors behind the best is tuned with it) were found on these settings, so they may be "
        "flattered; all methods that choose cheaply are on [a page of their own](proxies.md). Predictions by "
        "themselves never choose the bare head: that rule was added after a comparison with 100 rows above.",
        "The search that predicts, against the exact one",
    ),
    Study(
        "Where the exact search stops, by stop rule",
        "sensitivity/sensitivity.md",
        "python benchmarks/sensitivity.py --results benchmarks/results",
        "Selection and accuracy by cross-validation for the default stop (one standard error) and the paper's epsilon.",
        "Where the search stops, by stop rule",
    ),
    Study(
        "What every added block gained",
        "sensitivity/sensitivity.md",
        "python benchmarks/sensitivity.py --results benchmarks/results",
        "By cross-validation, paired over folds, ± one standard error; the folds chose the blocks, so gains are "
        "flattered.",
        "What every added block gained",
    ),
    Study(
        "What early dropping of candidates loses",
        "pruners/pruners.md",
        "python benchmarks/pruners.py",
        "Replayed over the journals of nine exact searches.",
    ),
)
STUDIES = (
    Study(
        "Finetuning profiles",
        "profiles/profiles.md",
        f"python benchmarks/profiles.py --bench BENCH {_OUT}/profiles",
        "Each block alone, by three folds; the number in a name is that of the rows. Early blocks for corrupted "
        "images, late ones for other classes, and for sentences most often the last but one; two draws of rows seldom "
        "disagree.",
        "Each block alone",
        "profiles.png",
    ),
    Study(
        "Two and three blocks",
        "profiles/profiles.md",
        f"python benchmarks/profiles.py --bench BENCH {_OUT}/profiles",
        "The best of all runs of two and of three blocks and of all pairs. One learning rate and few epochs for all: "
        "where more blocks lose, the rate was high for them; where they gain much, one block had too few steps.",
        "Two and three blocks",
        "widths.png",
    ),
    Study(
        "All methods of `subtuning compare`, images",
        "baselines/comparisons.md",
        f"python benchmarks/comparisons.py --bench BENCH {_OUT}/baselines --settings contrast-100 --methods ...",
        "CIFAR-10-C contrast, 100 rows, ResNet-20; six trials and five seeds for every method.",
        "contrast-100, draw 0",
    ),
    Study(
        "All methods of `subtuning compare`, text",
        "baselines/comparisons.md",
        f"python benchmarks/comparisons.py --bench BENCH {_OUT}/baselines --settings trec6-100 --methods ...",
        "TREC-6, 100 rows, MiniLM; as above.",
        "trec6-100, draw 0",
    ),
    Study(
        "Trials scored by one fold or by three",
        "three_folds/comparisons.md",
        f"python benchmarks/comparisons.py --bench BENCH {_OUT}/three_folds --settings trec6-100 digits-100 "
        "--tuning-folds 3",
        "With 100 rows a fold scores a trial by 33, of which one is three points; here all 100 score it. Nothing else "
        "is changed: the same blocks, trials spread alike, and final seeds.",
        "Trials on one fold and on more",
    ),
    Study(
        "Corruptions",
        "corruptions/corruptions.md",
        f"python benchmarks/corruptions.py --bench BENCH {_OUT}/corruptions",
        "CIFAR-10-C, generated with its published constants at severity 5: what the default search chooses first.",
        picture="corruptions.png",
    ),
    Study(
        "The protocol of VTAB-1k",
        "vtab/comparisons.md",
        f"python benchmarks/comparisons.py --settings vtab-cifar100 --folds 5 --bench BENCH {_OUT}/vtab",
        "CIFAR-100 and a ResNet-20 of CIFAR-10: trials of hyperparameters learn from 800 rows and are scored by "
        "200, blocks are chosen on folds of the 1,000, and what was chosen is trained on these with five seeds.",
    ),
    Study(
        "Active learning",
        "active/active.md",
        f"python benchmarks/active.py --bench BENCH {_OUT}/active",
        "ResNet-20 of CIFAR-10 on 20 classes of CIFAR-100, mean ± standard deviation over seeds that draw pool and "
        "first rows. In each round the model starts anew from its pretrained weights, and blocks and hyperparameters "
        "are chosen anew on the labelled rows; test rows are only scored. Coreset and BADGE were run for SubTuning "
        "alone.",
        picture="active.png",
    ),
    Study(
        "Siamese SubTuning and re-initialised blocks",
        "siamese/siamese.md",
        f"python benchmarks/siamese.py --bench BENCH {_OUT}/siamese",
        "The best single block tuned plainly, with the frozen features beside the tuned ones, and from random weights. "
        "Differences with their standard error and its two parts (seeds, test rows).",
        picture="siamese.png",
    ),
    Study(
        "Channel pruning of tuned blocks",
        "pruned/pruned.md",
        f"python benchmarks/pruned.py --bench BENCH {_OUT}/pruned",
        "Channels inside the tuned blocks removed before tuning; `less` is the difference to the same blocks whole, "
        "with its standard deviation over seeds.",
        picture="pruned.png",
    ),
    Study(
        "Rank of LoRA",
        "lora_ranks/lora_ranks.md",
        f"python benchmarks/lora_ranks.py --bench BENCH {_OUT}/lora_ranks",
        "LoRA of all blocks and of the chosen ones only, two learning rates tried for each rank.",
        picture="lora_ranks.png",
    ),
    Study(
        "Token labels, numbers and language models",
        "text_tasks/text_tasks.md",
        f"python benchmarks/text_tasks.py --bench BENCH {_OUT}/text_tasks",
        "Truecasing, sentiment as a number, and a small GPT-2 over bytes taken from reviews to questions.",
    ),
    Study(
        "A few augmentation views",
        "views/contrast-300/views.md",
        "python benchmarks/views.py",
        "Views of each row that cached training sees, and what endless new ones give.",
    ),
)
COSTS = (
    Study(
        "Exact searches with shared work, images",
        "exact_speed/contrast-300/exact_speed.md",
        "python benchmarks/exact_speed.py",
        "Against a loop over Trainers with the same decisions.",
        also="Bound",
    ),
    Study(
        "Exact searches with shared work, text",
        "exact_speed/trec6-200/exact_speed.md",
        "python benchmarks/exact_speed.py",
        "As above.",
        also="Bound",
    ),
    Study(
        "Training late blocks only, images",
        "late_training/contrast-900/late_training.md",
        "python benchmarks/late_training.py",
        "One epoch and the whole training against a full fine-tune and LoRA on all blocks.",
    ),
    Study(
        "Training late blocks only, text",
        "late_training/trec6-600/late_training.md",
        "python benchmarks/late_training.py",
        "As above.",
    ),
)
TASKS = (
    Study(
        "Against separate models",
        "multitask/multitask.md",
        "python benchmarks/many_tasks.py",
        "Times of each way over that of one trunk: median over repeats, lowest to highest.",
    ),
    Study(
        "Against `Parallel` of the adapters library",
        "multitask/adapters.md",
        "python benchmarks/many_tasks_adapters.py",
        "Below 1, that library is faster.",
    ),
    Study(
        "A search that weighs what blocks cost to serve",
        "serving/serving.md",
        "python benchmarks/serving.py",
        "The selection of a plain exact search against one that may give up a standard error for latency.",
    ),
    Study(
        "The reference server under load",
        "serving/load.md",
        "python recipes/serve/load_test.py",
        "One server for all tasks against one for each, on the same core.",
    ),
)
UNKNOWN = (
    "- What more trials would change: with 100 rows a fold scores them by 33, of which one is three points. LoRA on "
    "`trec6-100` had 79.2 % at a rank and rates that the trials shown above did not come to, and 65.6 % at theirs.",
    "- Other draws of training rows: most studies have one draw each, the comparisons too.",
    "- GPUs: no speed was measured on one, and launches on several were not run.",
    "- Large models: no model here has more than 110 million parameters, and none that was trained more than 23 "
    "million.",
    "- The recipes that follow published settings were not run; each says so (`measured: false`).",
    "- Other searches: [many processes](../benchmarks/results/simulation/results.md) are simulated with the "
    "scheduling "
    "code that runs; [forward and backward](../benchmarks/results/searches/contrast/results.md) searches of "
    "blocks and "
    "parts are one seed each.",
)
