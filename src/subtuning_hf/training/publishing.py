"""
The way of a trained adapter to the Hub as methods of a Trainer: its card, its pictures, and the push.

Gathers what is known for `hub`, which writes the card, and asks `plots` for pictures where matplotlib is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy, PredictionOutput
from transformers.utils import PushInProgress, logging
from transformers.utils.hub import hf_api

from ..blocks import find_blocks
from ..errors import ArgumentsError, JournalError, NoBlocksFoundError, SubTuningError
from ..hub import card as cards
from ..hub import files
from ..hub.compared import is_comparison, read_comparison
from ..hub.facts import CardFacts, Measured, adapter_parts, hub_name, pipeline_tag, problem_of, source_of
from ..hub.results import results_url, write_results
from ..search.journal import Study as Records
from ..search.journal import find_study
from ..search.result import SearchResult
from .arguments import GreedySubTuningArguments
from .card_facts import changed_arguments, draw_pictures, listed, versions
from .prepare import journal_folder
from .recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer

    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)

_SPEED = ("runtime", "_per_second", "preparation_time", "epoch")


class PublishingMixin(_Base):
    """What `GreedySubTuningTrainer` adds to a Trainer after the final training."""

    args: GreedySubTuningArguments
    base_model: torch.nn.Module
    result: SearchResult | None
    _recipe: Recipe
    hub_model_id: Any
    push_in_progress: Any
    _measured: list[Measured]
    _card_words: dict[str, Any]

    # --- what was measured ------------------------------------------------------------------
    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in Trainer; what it returns after `train()` is told in the model card."""
        metrics = super().evaluate(eval_dataset, *args, **kwargs)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, str) and isinstance(self.eval_dataset, dict):
            rows = self.eval_dataset[rows]
        self._remember(rows, metrics, kwargs.get("metric_key_prefix", args[1] if len(args) > 1 else "eval"))
        return metrics

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As in Trainer; its metrics after `train()` are told in the model card."""
        output = super().predict(test_dataset, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", args[1] if len(args) > 1 else "test")
        self._remember(test_dataset, output.metrics or {}, prefix)
        return output

    def _remember(self, rows: Any, metrics: Mapping[str, Any], prefix: str) -> None:
        """Keep what a finished adapter scored on rows that it was not trained on."""
        seen = rows is self.train_dataset or rows is self._recipe.validation_dataset
        if self.is_in_train or not self._has_trained or seen or isinstance(rows, dict):
            return
        found = {
            name.removeprefix(f"{prefix}_"): float(value)
            for name, value in metrics.items()
            if name.startswith(f"{prefix}_") and isinstance(value, int | float) and not name.endswith(_SPEED)
        }
        steered = False
        if self.args.evaluates_while_training or self._recipe.stops_early:
            known = self.eval_dataset
            steered = any(rows is each for each in (known.values() if isinstance(known, dict) else [known]))
        count = len(rows) if hasattr(rows, "__len__") else None
        one = Measured(prefix, found, count, steered, source_of(rows))
        self._measured = [*(kept for kept in self._measured if kept.split != prefix), one]

    @property
    def _has_trained(self) -> bool:
        return isinstance(self._adapted, PeftModel) and self.state.global_step > 0

    @property
    def _adapted(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    # --- the card ---------------------------------------------------------------------------
    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        comparison: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Write `README.md` and its pictures into `output_dir`. A card that somebody wrote there is left alone.

        Args:
            language (*optional*), license (*optional*), tags (*optional*), model_name (*optional*),
            finetuned_from (*optional*), tasks (*optional*), dataset_tags (*optional*), dataset (*optional*),
            dataset_args (*optional*): As in Trainer. No licence is guessed. Given once, they hold for later cards too.
            comparison (`list[dict]`, *optional*):
                Rows of `compare.method_rows` with these blocks among them; by default those in `output_dir` that
                `subtuning compare` wrote into `comparison/comparison.json`, or those of a `comparison.json` or
                `results.json` there.

        Raises: [`ArgumentsError`]: If nothing was trained yet, or the comparison is about other blocks.
        """
        self._check_trained("a model card tells of a trained adapter")
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        if comparison is not None and not is_comparison(comparison, self._chosen_blocks):
            raise ArgumentsError(
                "`comparison` must hold rows of `compare.method_rows`, one of them with the blocks of this adapter "
                f"({', '.join(self._chosen_blocks) or 'none'})."
            )
        self._card_words = {**self._card_words, **given}
        if self.is_world_process_zero():
            self._write_card(self.args.folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer, with the model card beside the adapter; a card that somebody wrote there is left alone."""
        folder = Path(output_dir or str(self.args.output_dir))
        with _kept(folder / cards.FILE_NAME, self.args.should_save):
            super().save_model(output_dir, _internal_call)
        # Trainer's own calls are those of checkpoints, which nobody reads.
        if _internal_call or not self._has_trained or not self.is_world_process_zero():
            return
        try:
            self._write_card(folder)
        except (SubTuningError, OSError) as error:
            logger.warning(f"The adapter is saved in '{folder}', but its model card could not be written: {error}")

    def _check_trained(self, what: str) -> None:
        if not self._has_trained:
            raise ArgumentsError(f"Nothing was trained yet, and {what}. Call train() first.")

    @property
    def _chosen_blocks(self) -> list[str]:
        model = self._adapted
        return list(model.peft_config[model.active_adapter].blocks)

    def _write_card(self, folder: Path) -> None:
        if cards.is_own_card(folder / cards.FILE_NAME):
            logger.info(f"'{folder / cards.FILE_NAME}' is not of subtuning-hf, and is left as it is.")
            return
        facts = self._facts(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, self._chosen_blocks, facts.measured)
        cards.write_card(cards.model_card(facts, draw_pictures(facts.result, folder, facts.study)), folder)

    def _facts(self, folder: Path) -> CardFacts:
        """All that is known of the trained adapter."""
        model, args, words = self._adapted, self.args, self._card_words
        config = model.peft_config[model.active_adapter]
        parts, base_parameters = adapter_parts(model, model.active_adapter)
        study = self._records()
        result = self.result if self.result is not None and set(self.result.blocks) == set(config.blocks) else None
        base = words.get("finetuned_from") or hub_name(config.base_model_name_or_path)
        hub_id = self.hub_model_id or args.hub_model_id
        title = words.get("model_name") or (hub_id or str(folder.resolve().name)).rsplit("/", 1)[-1]
        kind = next(iter(listed(words.get("tasks"))), None) or pipeline_tag(model.get_base_model())
        return CardFacts(
            title=title,
            adapter=hub_id or folder.name,
            architecture=config.base_architecture or type(model.get_base_model()).__name__,
            parts=parts,
            base_parameters=base_parameters,
            num_blocks=self._num_blocks(study),
            base=base,
            base_revision=config.revision,
            task=kind,
            labels=tuple(config.id2label[index] for index in sorted(config.id2label or {})),
            has_processor=self.processing_class is not None,
            result=result,
            study=study,
            measured=tuple(self._measured),
            problem=problem_of(model),
            results_url=results_url(hub_id or folder.name, args.hub_revision),
            comparison=words.get("comparison") or read_comparison([folder, args.folder], config.blocks),
            train_rows=len(self._recipe.train_dataset),
            source=source_of(self._recipe.train_dataset),
            arguments=changed_arguments(args),
            seed=args.seed,
            steps=self.state.global_step,
            epochs=self.state.epoch,
            processes=args.world_size,
            device=str(args.device),
            versions=versions(),
            has_journal=study is not None and folder.resolve() == args.folder.resolve(),
            license=words.get("license"),
            language=words.get("language"),
            tags=tuple(listed(words.get("tags"))),
            datasets=tuple(listed(words.get("dataset_tags"))),
            dataset_names=tuple(listed(words.get("dataset"))),
            dataset_args=tuple(listed(words.get("dataset_args"))),
        )

    def _records(self) -> Records | None:
        """The journal, if there is one and it is about this training."""
        try:
            return find_study(journal_folder(self.args))
        except JournalError as error:
            logger.warning(f"The model card does not tell of the search: {error}")
            return None

    def _num_blocks(self, study: Records | None) -> int | None:
        if study is not None and self.args.blocks is None:
            return len(study.spec.blocks)
        try:
            return len(find_blocks(self._adapted.get_base_model(), granularity=self.args.granularity))
        except NoBlocksFoundError:
            return None

    # --- the push ---------------------------------------------------------------------------
    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in Trainer, which takes `private` from its arguments alone in transformers 5.19."""
        before = self.args.hub_private_repo
        self.args.hub_private_repo = before if private is None else private
        try:
            super().init_hf_repo(token=token)
        finally:
            self.args.hub_private_repo = before

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        report: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Push the adapter with its card, pictures, journal, and processor or tokenizer to `args.hub_model_id`.

        What else lies in `output_dir` goes along as in Trainer, but for checkpoints, hidden files, locks, the page
        `report.html` of `subtuning report`, and `training_args.bin`, in which the token stands in plain text.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`), blocking (`bool`, *optional*),
            token (`str`, *optional*), revision (`str`, *optional*), private (`bool`, *optional*): As in Trainer; a
                branch that does not exist is made.
            create_pr (`bool`, *optional*, defaults to `False`): Open a pull request with the commit.
            report (`bool`, *optional*, defaults to `False`): Push `report.html` too, which must be there.
            kwargs: Passed along to `create_model_card`.

        Returns: [`~huggingface_hub.CommitInfo`], or a `Future` of it with `blocking=False`; `None` in other processes.
        Raises: [`ArgumentsError`]: If nothing was trained yet, or there is no report to push; before anything is asked
            of the Hub.
        """
        self._check_trained("only a trained adapter is pushed")
        self._check_report(report)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        revision = self.args.hub_revision if revision is None else revision
        self._finish_current_push()
        _make_branch(self.hub_model_id, revision, token, create_pr)
        return hf_api().upload_folder(  # type: ignore[call-overload]
            repo_id=self.hub_model_id,
            folder_path=str(self.args.output_dir),
            commit_message=commit_message,
            token=token,
            run_as_future=not blocking,
            allow_patterns=files.as_patterns(files.pushed_files(self.args.folder, report)),
            revision=revision,
            create_pr=create_pr,
        )

    def _check_report(self, wanted: bool) -> None:
        page = self.args.folder / files.REPORT
        if wanted and self.is_world_process_zero() and not page.is_file():
            raise ArgumentsError(
                f"`report=True` pushes '{page}', which is not there. Write it with `subtuning report "
                f"{self.args.folder}`, or leave `report` out."
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """
        Trainer's push in the middle of a training, of the checkpoint alone.

        Trainer's own pushes all of `output_dir`, in which the inputs of blocks may be stored meanwhile.
        """
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        running = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if running and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        whole = files.checkpoint_files(checkpoint_folder)
        adapter = [
            name for name in files.pushed_files(checkpoint_folder) if name in whole and name != TRAINER_STATE_NAME
        ]
        folders = {"": adapter}
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = args.hub_strategy == HubStrategy.CHECKPOINT
            folders["last-checkpoint" if last else Path(checkpoint_folder).name] = whole
        jobs = [
            hf_api().upload_folder(
                repo_id=self.hub_model_id,
                folder_path=checkpoint_folder,
                path_in_repo=place,
                commit_message=f"Training in progress, step {self.state.global_step}",
                token=args.hub_token,
                run_as_future=True,
                allow_patterns=files.as_patterns(names),
                revision=args.hub_revision,
            )
            for place, names in folders.items()
        ]
        if running:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]


def _make_branch(repo: str, revision: str | None, token: str | None, create_pr: bool) -> None:
    """As `push_to_hub` of a model does, where Trainer would end in a 404."""
    if revision is None or revision == "main" or revision.startswith("refs/pr"):
        return
    try:
        hf_api().create_branch(repo_id=repo, branch=revision, token=token, exist_ok=True)
    except HfHubHTTPError as error:
        if not (create_pr and error.response is not None and error.response.status_code == 403):
            raise


@contextmanager
def _kept(file: Path, writes: bool) -> Iterator[None]:
    """Give a card that somebody wrote back as it was: PEFT puts its own lines and tags into it."""
    before = file.read_bytes() if writes and cards.is_own_card(file) else None
    try:
        yield
    finally:
        if before is not None and file.read_bytes() != before:
            file.write_bytes(before)
