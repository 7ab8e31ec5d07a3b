"""
`Trunk`: a model that is started at block k, with that block's input computed once per row and kept.

While only blocks from k on are trained, the input of block k depends on frozen weights alone. A cut k says that blocks
before k do not run; at cut L only what follows the last block does. Does not know adapters, tasks or Trainers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ..errors import PrefixCacheError
from .assemble import assemble, fits
from .capture import device_of
from .check import Verdict, check_cuts
from .files import FileStore
from .fill import fill, layout
from .inputs import Batch
from .learn import Learned
from .standins import Call, Session
from .store import PrefixStore

logger = logging.get_logger(__name__)
# Arguments that ask for what is inside the model, or bring it: a call that has one runs in full.
_INNER = ("output_hidden_states", "output_attentions", "past_key_values", "cache", "inputs_embeds",
          "use_cache")  # fmt: skip


@dataclass(frozen=True)
class TrunkCosts:
    """
    What starting at a cut saves and takes.

    Args:
        shares (`tuple[float, ...]`): Share of each of the L blocks in the cost of a forward pass, in 0 ... 1.
        bytes_per_row (`tuple[float, ...]`): L + 1 numbers: mean bytes to store per row for each cut, 0 for cut 0.
    """

    shares: tuple[float, ...]
    bytes_per_row: tuple[float, ...]


class Trunk:
    """
    Runs a model from a block on, with stored inputs.

    A call that brings the numbers of its rows as the argument [`ROWS`] starts at the cut of the surrounding
    [`starting_at`]; a call without them, or of a shape that cannot be served, runs in full.

    Args:
        model (`torch.nn.Module`): The base model, without adapters. Its weights must not change afterwards.
        blocks (`Sequence[str]`): Full names of its blocks in forward order.
        batch_of (`Callable[[Sequence[int]], dict[str, Any]]`):
            Row numbers to a batch, as the collator makes it; the same for a row every time it is asked. A row is
            whatever is to have stored inputs of its own: an example, or one view of an example.
        num_rows (`int`): Rows are numbered from 0 to this.
        batch_size (`int`, *optional*, defaults to 32): Most rows that run together when a store is filled.
        autocast (`torch.dtype`, *optional*): Of the autocast that the trainings run under, if they do.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        batch_of: Callable[[Sequence[int]], Batch],
        num_rows: int,
        *,
        batch_size: int = 32,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.blocks, self.batch_of, self.num_rows = model, tuple(blocks), batch_of, num_rows
        self.batch_size, self.autocast = batch_size, autocast
        self.verdicts: dict[int, Verdict] = {}
        self.store: PrefixStore | None = None
        self.cuts: tuple[int, ...] = ()
        self._learned: Learned | None = None
        self._sessions: list[Session] = []
        # How calls with row numbers ran.
        self.calls = {"started late": 0, "in full": 0}

    # --- what is there ------------------------------------------------------------------------
    @property
    def learned(self) -> Learned:
        """[`Learned`]: The model's structure, found out at the first use."""
        if self._learned is None:
            if self.num_rows < 1:
                raise PrefixCacheError("Expected at least one row to start from, found none.")
            self._learned = Learned(self.model, self.blocks, self.batch_of, self.num_rows, self.autocast)
        return self._learned

    def probe(self) -> TrunkCosts:
        """
        Learn the model's structure from a few rows, and what each cut saves and takes.

        Raises: [`PrefixCacheError`]: If the model cannot be started at a block at all.
        """
        learned = self.learned
        # The latest first: what it takes to learn of one length then serves all cuts before it.
        sizes = tuple(learned.row_bytes(cut) for cut in reversed(range(len(self.blocks) + 1)))[::-1]
        return TrunkCosts(learned.anatomy.shares, sizes)

    def cut_of(self, names: Sequence[str]) -> int:
        """
        The greatest cut that leaves all of some modules to run: blocks, parts of blocks, stages, or what is outside.

        Args:
            names (`Sequence[str]`): Names of the modules that are trained. The head alone, or nothing, gives L.
        """
        return self.learned.anatomy.cut_of(self.model, names)

    @property
    def can_skip_inputs(self) -> frozenset[str]:
        """`frozenset[str]`: Inputs of which only the shape matters at every cut that is stored, such as images."""
        unread = [self.verdicts[cut].unread_inputs for cut in self.cuts]
        return frozenset.intersection(*unread) if unread else frozenset()

    # --- storing ------------------------------------------------------------------------------
    def check(self, cuts: Sequence[int]) -> dict[int, bool | str]:
        """
        Try cuts out on a few rows.

        Args:
            cuts (`Sequence[int]`): Each in 1 ... L.

        Returns: `dict[int, bool | str]`: `True`, or why the model cannot be started there.
        """
        wrong = [cut for cut in cuts if not 1 <= cut <= len(self.blocks)]
        if wrong:
            raise PrefixCacheError(f"Expected cuts in 1 ... {len(self.blocks)}, found {wrong}.")
        unknown = [cut for cut in cuts if cut not in self.verdicts]
        try:
            learned = self.learned
        except PrefixCacheError as error:
            self.verdicts.update(dict.fromkeys(unknown, Verdict(str(error).rstrip("."))))
        else:
            self._refuse_adapters()
            self.verdicts.update(check_cuts(learned, unknown))
        return {cut: self.verdicts[cut].reason or True for cut in sorted(cuts)}

    def fill(
        self,
        cuts: Sequence[int],
        *,
        folder: str | os.PathLike | None = None,
        device: str | torch.device = "cpu",
        budget_bytes: float | None = None,
    ) -> tuple[int, ...]:
        """
        Store what some cuts need, for all rows, in one pass; cuts that fail the check are left out.

        Args:
            cuts (`Sequence[int]`): Each in 1 ... L.
            folder (`str` or `os.PathLike`, *optional*):
                Keep the values in files there instead of in memory; processes that name the same folder share them.
                It must be of this base model, these rows and this autocast alone.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where memory is taken.
            budget_bytes (`float`, *optional*): Most bytes to take.

        Returns: `tuple[int, ...]`: The cuts that are stored now.
        Raises: [`PrefixCacheError`]: If they need more bytes than the budget, or memory or disk have no room.
        """
        self.close()
        verdicts = self.check(cuts)
        kept = tuple(cut for cut, verdict in verdicts.items() if verdict is True)
        if cuts and not kept:
            kind = type(self.model).__name__
            logger.warning(f"{kind} runs in full, without stored inputs of its blocks: {verdicts[max(verdicts)]}.")
        if not kept:
            return ()
        learned = self.learned
        blocks = sorted({block for cut in kept for block in learned.needed(cut)})
        arrays = layout(learned, blocks, learned.lengths)
        store = PrefixStore(arrays, device) if folder is None else FileStore(arrays, folder)
        if budget_bytes is not None and store.nbytes > budget_bytes:
            raise PrefixCacheError(
                f"Cuts {kept} need {store.nbytes} bytes for {self.num_rows} rows; the budget is {budget_bytes:.0f}. "
                "Choose cuts by `plan_cuts`."
            )
        fill(store, learned, learned.lengths, self.batch_size)
        self.store, self.cuts = store, kept
        return kept

    def close(self) -> None:
        """Let go of what is stored; files stay."""
        if self.store is not None:
            self.store.close()
        self.store, self.cuts = None, ()

    def _refuse_adapters(self) -> None:
        modules = self.learned.modules
        for name in self.blocks:
            if self.model.get_submodule(name) is not modules[name]:
                raise PrefixCacheError(
                    f"Expected the bare base model, found another module in the place of block '{name}'. Take adapters "
                    "out first (`unload()`)."
                )

    # --- running ------------------------------------------------------------------------------
    @contextmanager
    def starting_at(self, top: nn.Module, cut: int, strict: bool = False) -> Iterator[int]:
        """
        While the block of code runs, calls of a model that bring row numbers start at a cut.

        Contexts may be nested, the innermost counts; everything is put back at the end, also after an error.

        Args:
            top (`torch.nn.Module`): What is called: the base model or the model of adapters around it.
            cut (`int`): Block that is the first to run for certain; the start is the greatest stored cut up to it.
            strict (`bool`, *optional*, defaults to `False`):
                Refuse a call with row numbers that has to run in full, because its inputs are not all there.

        Returns: `int`: The cut that is used, 0 where none is stored; calls then run in full.
        Raises: [`PrefixCacheError`]: In a call, if something trains a module that is skipped.
        """
        used = max((stored for stored in self.cuts if stored <= cut), default=0)
        skipped = {}
        if used:
            modules = self.learned.modules
            skipped = {name: modules[name] for name in (*self.blocks[:used], *self.verdicts[used].stem)}
        frozen = {id(p): p for module in skipped.values() for p in module.parameters()}
        session = Session(top, self.model, skipped, partial(self._prepare, used, strict, tuple(frozen.values())))
        outer = self._sessions[-1] if self._sessions else None
        if outer is not None:
            outer.uninstall()
        try:
            session.install()
            self._sessions.append(session)
            try:
                yield used
            finally:
                session.uninstall()
                self._sessions.remove(session)
        finally:
            if outer is not None:
                outer.install()

    def _prepare(
        self, cut: int, strict: bool, frozen: Sequence[nn.Parameter], rows: Tensor, kwargs: dict[str, Any]
    ) -> Call | None:
        """What stands in during a call, `None` if it has to run in full."""
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in frozen):
            raise PrefixCacheError(
                f"Something (a callback?) lets blocks before number {cut} train, which are not run: their inputs were "
                "stored while they were frozen. Leave them frozen, or set `prefix_cache=False`."
            )
        call = self._stand_ins(cut, rows, kwargs)
        self.calls["in full" if call is None else "started late"] += 1
        if call is None and strict:
            raise PrefixCacheError(
                f"A call with {', '.join(sorted(kwargs))} cannot start at block {cut}: its shapes or arguments are not "
                "those that were stored. Set `prefix_cache=False`."
            )
        return call

    def _stand_ins(self, cut: int, rows: Tensor, kwargs: dict[str, Any]) -> Call | None:
        learned, store, verdict = self.learned, self.store, self.verdicts[cut]
        key = learned.inputs.key(kwargs) if learned.inputs.alike(kwargs) else None
        if store is None or key is None or any(_asked(kwargs.get(name)) for name in _INNER):
            return None
        if device_of(self.model) != learned.device:
            raise PrefixCacheError(
                f"The model was on {learned.device} when its block inputs were stored and is on "
                f"{device_of(self.model)} now. Store them when it is where it trains."
            )
        if rows.device != store.device or not learned.lengths.plain:
            rows = rows.cpu()  # else they stay, and nothing waits for the accelerator
        self._check_rows(rows, learned.inputs.sizes(kwargs))
        templates = learned.templates(key, kwargs, cut)
        wanted = {self.blocks[block]: block for block in learned.needed(cut)}
        if any(name not in templates for name in (*self.blocks[:cut], *verdict.stem)):
            return None
        if not all(fits(store, b, rows, templates[name], learned.lengths, learned.side) for name, b in wanted.items()):
            return None

        def real(name: str) -> Any:
            template = templates[name]
            return assemble(store, wanted[name], rows, template, learned.lengths, learned.side, learned.device)

        return Call(templates, len(rows), learned.device, real, frozenset(wanted), verdict.filling)

    def _check_rows(self, rows: Tensor, sizes: set[int]) -> None:
        if rows.ndim != 1 or rows.is_floating_point() or sizes != {len(rows)}:
            raise PrefixCacheError(
                f"Expected one row number per row of the batch ({sorted(sizes)}), found {rows.dtype} of shape "
                f"{tuple(rows.shape)}."
            )
        if rows.device.type == "cpu" and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.num_rows:
            raise PrefixCacheError(
                f"Expected row numbers in 0 ... {self.num_rows - 1}, found {int(rows.min())} ... {int(rows.max())}."
            )


def _asked(value: Any) -> bool:
    """Whether an argument says something."""
    return value is not None and value is not False
