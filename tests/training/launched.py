"""What a launcher starts in the tests of several processes: `launched.py SCENARIO FOLDER`, once for each process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own modules, as pytest finds them

from training.cases import Rows, accuracy, make_model, make_trainer

ARGS = {"max_blocks": 2, "num_threads": 1}
RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def tell(folder: Path, **what: object) -> None:
    """What this process saw, for the test to compare."""
    (folder / f"told-{RANK}.json").write_text(json.dumps(what))


def scores(folder: Path) -> list[list]:
    """Every evaluation and final training of a study, to the last bit, in an order of their own."""
    from subtuning_hf.search.journal import read_study

    study = read_study(folder / "journal")
    found = [[e.candidate.label, e.fold, e.repeat, float(e.score).hex(), e.num_examples] for e in study.evaluations]
    finals = [[f.candidate.label, f.seed, float(f.metrics["eval_loss"]).hex()] for f in study.finals]
    return [sorted(found), sorted(finals), sorted([d.round, d.reason] for d in study.decisions)]


def everything(folder: Path) -> None:
    """Search, profile, repeat, and the distributed training of the winner."""
    # As `from_pretrained` does for a new head, each process draws its own.
    trainer = make_trainer(folder, model=make_model(head_seed=RANK), args=ARGS, eval_dataset=Rows(18, seed=5))
    result = trainer.search()
    profile = trainer.profile(pairs=True, repeats=2)
    finals = trainer.repeat(num_repeats=3)
    world = trainer.args.world_size
    trainer.train()
    tensors = {name: p.detach().double().sum().item() for name, p in trainer.model.named_parameters()}
    trainer.save_model(str(folder / "adapter"))
    tell(
        folder,
        blocks=result.blocks,
        table=[row.mean for row in profile.rows],
        finals=[final.seed for final in finals],
        world=world,
        evaluated=sum(e.info["process"] == RANK for e in trainer.study().evaluations),
        tensors=tensors,
        loss=trainer.evaluate()["eval_loss"],
    )


def search(folder: Path) -> None:
    """A search alone."""
    make_trainer(folder, args=ARGS).search()


def predicting(folder: Path) -> None:
    """A search that predicts, and trains a few of what it predicted best."""
    make_trainer(folder, args={**ARGS, "strategy": "kernel", "search_budget": 4.0, "num_train_epochs": 4}).search()


def on_gpu(folder: Path) -> None:
    """A search on this process' GPU, and the distributed training of its winner."""
    trainer = make_trainer(folder, args={**ARGS, "use_cpu": False})
    trainer.search()
    trainer.train()


def again(folder: Path) -> None:
    """One trainer with several studies, one after another; then a search that works ahead."""
    trainer = make_trainer(folder / "first", args=ARGS)
    trainer.profile()
    trainer.search()
    trainer.args.output_dir, trainer.args.learning_rate = str(folder / "second"), 2e-2
    trainer.search()
    trainer.args.output_dir, trainer.args.speculate = str(folder / "ahead"), True
    trainer.search()


def two_heads(folder: Path) -> None:
    """A study whose first process died before it wrote anything, as on a machine of its own."""
    trainer = make_trainer(folder / str(RANK), model=make_model(head_seed=5 + RANK), args=ARGS)
    trainer.search()
    tell(folder, evaluations=len(trainer.study().evaluations), head=trainer.base_model.classifier[1].weight.tolist())


def killed_once(folder: Path) -> None:
    """The last process kills itself in the first attempt, as soon as it has evaluated something."""
    mark = folder.with_name("killed")

    def compute(prediction: object) -> dict[str, float]:
        from subtuning_hf.search.journal import find_study

        known = find_study(folder / "journal")
        if RANK == SIZE - 1 and not mark.exists() and known and len(known.evaluations) > 2:
            mark.write_text(str(len(known.evaluations)))
            os.kill(os.getpid(), signal.SIGKILL)
        return {"accuracy": 0.0}

    # The function is part of the study: the same source in the attempt that goes through.
    make_trainer(folder, args=ARGS, compute_metrics=compute).search()


def failing(folder: Path) -> None:
    """One evaluation fails, in whichever process comes to it first; the others could go on."""

    def compute(prediction: object) -> dict[str, float]:
        from subtuning_hf.search.journal import find_study

        known = find_study(folder / "journal")
        if known is not None and len(known.evaluations) > 2:
            try:
                folder.with_name("failed").open("x").close()
            except FileExistsError:
                pass
            else:
                raise ZeroDivisionError("the metric has no value")
        return accuracy(prediction)

    try:
        make_trainer(folder, args=ARGS, compute_metrics=compute).search()
    except BaseException as error:
        tell(folder, type=type(error).__name__, text=str(error), notes=getattr(error, "__notes__", []))
        raise


def other_data(folder: Path) -> None:
    """The processes were given different rows."""
    try:
        make_trainer(folder, args=ARGS, train_dataset=Rows(24, seed=RANK)).search()
    except Exception as error:
        tell(folder.parent, type=type(error).__name__, text=str(error))
        raise


if __name__ == "__main__":
    where = Path(sys.argv[2])
    where.parent.mkdir(parents=True, exist_ok=True)
    scenarios = (everything, search, predicting, on_gpu, again, two_heads, killed_once, failing, other_data)
    {scenario.__name__: scenario for scenario in scenarios}[sys.argv[1]](where)
