"""
Tries a model out before it is trusted to start at its blocks.

Two questions for each cut: does it give the bits of a full pass when the stored values come from the same batch, with
NaN in the place of everything that is said not to matter; and does it stay within rounding when rows are stored alone
and batched anew? On the way it finds out which modules and inputs ahead of the cut can be left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import PrefixCacheError
from .assemble import assemble
from .capture import capture, undisturbed, without_cache
from .fill import fill, layout
from .inputs import Lengths, within
from .learn import Learned
from .standins import ROWS, Call, Session
from .store import PrefixStore
from .structure import Dims, compare, tensors_of


@dataclass(frozen=True)
class Verdict:
    """
    What the check says of a cut.

    Args:
        reason (`str` or `None`): Why the model cannot be started there; `None` if it can.
        stem (`tuple[str, ...]`): Modules apart from the blocks that need not run.
        unread_inputs (`frozenset[str]`): Inputs of floating point of which only the shape matters then.
        filling (`str`): What dummies must be made of: `"thin"`, or `"zeros"` where the model writes into them.
        error (`float`): Greatest relative difference that storing rows alone made, over the values of the outputs.
    """

    reason: str | None = None
    stem: tuple[str, ...] = ()
    unread_inputs: frozenset[str] = frozenset()
    filling: str = "thin"
    error: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the model can be started there."""
        return self.reason is None


def check_cuts(learned: Learned, cuts: Sequence[int]) -> dict[int, Verdict]:
    """
    Check some cuts.

    Args:
        learned ([`Learned`]): The model.
        cuts (`Sequence[int]`): Each in 1 ... L.

    Returns: `dict[int, Verdict]`
    """
    if not cuts:
        return {}
    with undisturbed(learned.model, learned.autocast):
        check = _Check(learned, cuts)
        return {cut: check.verdict(cut) for cut in sorted(cuts, reverse=True)}


class _Check:
    """Some rows, what a full pass makes of them, and what a pass from a cut does."""

    def __init__(self, learned: Learned, cuts: Sequence[int]) -> None:
        self.learned = learned
        self.rows = rows_to_try(learned)
        self.tolerance = tolerance(learned.model, learned.device, learned.autocast)
        self.batch = learned.batch(self.rows)
        key = learned.inputs.key(self.batch)
        assert key is not None
        deepest = max(cuts)
        self.templates = learned.templates(key, self.batch, deepest)
        self.full = self._run(self.batch)
        again = self._run(self.batch)
        self.repeats = all(_same(self.full[path], again[path]) for path in self.full)
        blocks = {name: learned.modules[name] for name in learned.blocks[:deepest]}
        self.captured = capture(learned.model, blocks, self.batch)
        self.store, self.lengths = self._store_alone(sorted({j for cut in cuts for j in learned.needed(cut)}))
        self.alone = [self._run(learned.batch([row])) for row in self.rows]
        two, three = (self._run(learned.batch([self.rows[0]] * count)) for count in (2, 3))
        self.dims = {path: _dims(two[path], three[path]) for path in self.full}
        self.allowed = self._allowed()
        self.stem: list[str] | None = None  # of the greatest cut that holds

    def verdict(self, cut: int) -> Verdict:
        """The verdict on one cut; greater ones are to be asked for first."""
        try:
            if (path := self._differs(self._from(cut, (), "poison"))) is not None:
                return Verdict(f"'{path}' changes: what runs later reads more than the output of the block before it")
        except Exception as failure:
            return Verdict(f"the model fails when earlier blocks do not run ({type(failure).__name__}: {failure})")
        stem = self._choose_stem(cut)
        filling = "thin"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*on expanded tensors.*")  # a write that is only warned of
                anew = self._from(cut, stem, filling, anew=True)
        except (RuntimeError, UserWarning):  # something writes into what a block or the stem returned
            filling = "zeros"
            try:
                anew = self._from(cut, stem, filling, anew=True)
            except RuntimeError as failure:
                return Verdict(f"the model fails on stored values ({failure})")
        path, error = self._deviation(anew)
        if not error <= self.allowed:
            return Verdict(f"'{path}' of rows that are batched anew is off by {error:.1e} of its greatest value")
        unread = [name for name in self.learned.inputs.relevant if self._unread(cut, stem, name)]
        return Verdict(None, tuple(stem), frozenset(unread), filling, error)

    # --- passes -------------------------------------------------------------------------------
    def _run(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        model = self.learned.model
        return {path: value.clone() for path, value in tensors_of(model(**without_cache(model, batch))).items()}

    def _from(
        self, cut: int, stem: Sequence[str], filling: str, anew: bool = False, batch: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Outputs of a pass that starts at a cut."""
        learned = self.learned
        wanted = [learned.blocks[j] for j in learned.needed(cut)]
        skipped = {name: learned.modules[name] for name in [*learned.blocks[:cut], *stem]}
        real = self._anew if anew else self._as_captured
        call = Call(self.templates, len(self.rows), learned.device, real, frozenset(wanted), filling)
        session = Session(learned.model, learned.model, skipped, lambda rows, kwargs: call)
        try:
            session.install()
            return self._run({**(batch or self.batch), ROWS: torch.tensor(self.rows)})
        finally:
            session.uninstall()

    def _as_captured(self, name: str) -> Any:
        return pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self.captured[name])

    def _anew(self, name: str) -> Any:
        learned, rows, block = self.learned, torch.tensor(self.rows), self.learned.blocks.index(name)
        template = self.templates[name]
        return assemble(self.store, block, rows, template, self.lengths, learned.side, learned.device)

    def _store_alone(self, blocks: Sequence[int]) -> tuple[PrefixStore, Lengths]:
        """The rows stored one by one, as no batch of a training has them."""
        learned = self.learned
        keys = {row: learned.lengths.keys[int(learned.lengths.bucket_of[row])] for row in self.rows}
        lengths = Lengths.of(keys, learned.num_rows)
        store = PrefixStore(layout(learned, blocks, lengths), learned.device)
        fill(store, learned, lengths, batch_size=1)
        return store, lengths

    # --- what can be left out -----------------------------------------------------------------
    def _choose_stem(self, cut: int) -> list[str]:
        """The modules ahead of the cut that need not run: all that may, else those that pass one by one."""
        anatomy = self.learned.anatomy
        usable = [name for name in anatomy.stem(cut) if name in self.templates]
        kept = None if self.stem is None else [name for name in self.stem if anatomy.early(name, cut)]
        for guess in (kept, usable):
            if guess is not None and self._does_without(cut, guess):
                self.stem = guess
                return guess
        chosen: list[str] = []
        waiting = anatomy.stem(cut)
        for name in waiting:  # grows
            if name in self.templates and self._does_without(cut, [*chosen, name]):
                chosen.append(name)
            else:
                waiting += anatomy.parts(name, cut)
        self.stem = chosen
        return chosen

    def _does_without(self, cut: int, stem: Sequence[str]) -> bool:
        try:
            return self._differs(self._from(cut, stem, "poison")) is None
        except Exception:
            return False

    def _unread(self, cut: int, stem: Sequence[str], name: str) -> bool:
        value = self.batch[name]
        if not value.is_floating_point():  # other numbers might do no harm in these rows only
            return False
        try:
            batch = {**self.batch, name: torch.full_like(value, float("nan"))}
            return self._differs(self._from(cut, stem, "poison", batch=batch)) is None
        except Exception:
            return False

    # --- comparisons --------------------------------------------------------------------------
    def _differs(self, outputs: Mapping[str, Tensor]) -> str | None:
        """The first output that is not bit for bit that of the full pass (or not within rounding, if that is not)."""
        if outputs.keys() != self.full.keys():
            return next(iter(outputs.keys() ^ self.full.keys()))
        for path, value in self.full.items():
            close = not self.repeats and deviation(value, outputs[path]) <= self.tolerance
            if not close and not _same(value, outputs[path]):
                return path
        return None

    def _deviation(self, outputs: Mapping[str, Tensor]) -> tuple[str, float]:
        """The output that is furthest off that of the full pass, padding left out, and by how much."""
        worst, greatest = "", 0.0
        for path, value in self.full.items():
            pairs = [(value, outputs[path])]
            if self._has_rows(path):
                pairs = [(self._row(value, path, i), self._row(outputs[path], path, i)) for i in range(len(self.rows))]
            for want, found in pairs:
                error = deviation(want, found)
                if not error <= greatest:
                    worst, greatest = path, error
        return worst, greatest

    def _allowed(self) -> float:
        """What rounding may change, from what the model's own rows alone differ by from rows in a batch."""
        own = [
            deviation(self._row(value, path, i), self._row(one[path], path, i, among=0))
            for path, value in self.full.items()
            if self._has_rows(path)
            for i, one in enumerate(self.alone)
        ]
        return allowance(self.tolerance, max(own, default=0.0))

    def _has_rows(self, path: str) -> bool:
        batch = self.dims[path].batch
        return batch is not None and self.full[path].shape[batch] == len(self.rows)

    def _row(self, value: Tensor, path: str, number: int, among: int | None = None) -> Tensor:
        """One row of an output without its padding; `among` is its place in the batch, by default its number."""
        batch = self.dims[path].batch
        assert batch is not None
        row, shape = (
            value.select(batch, number if among is None else among),
            self.alone[number][path].select(batch, 0).shape,
        )
        return row[within(shape, row.shape, self.learned.side or "right")]


def _dims(two: Tensor, three: Tensor) -> Dims:
    try:
        return compare(two, three)[0]
    except PrefixCacheError:  # similarities of rows among each other: compared as a whole
        return Dims(None, ())


def rows_to_try(learned: Learned) -> list[int]:
    """Three rows: a short one, a long one and one between; all of one length where padding cannot be made out."""
    lengths = learned.lengths
    if len(lengths.keys) == 1 or learned.side is None:
        rows = lengths.rows_of(0)
        return [rows[0], rows[len(rows) // 2], rows[-1]]
    buckets = lengths.by_size()
    return [lengths.rows_of(bucket)[-1] for bucket in (buckets[0], buckets[-1], buckets[len(buckets) // 2])]


def tolerance(model: nn.Module, device: torch.device, autocast: torch.dtype | None = None) -> float:
    """What rounding may change when the same rows run in other batches, relative to the greatest value."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if autocast is not None:
        kinds.add(autocast)
    eps = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    if eps > 1e-4:
        return 4 * eps
    cuda = device.type == "cuda"
    if cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        return 4 * 2.0**-10
    return 1e-5


def allowance(least: float, own: float) -> float:
    """
    What rounding may change: `least`, or more where a model's own rows alone differ more from rows in a batch, as small
    variances of a BatchNorm magnify rounding; up to a limit.
    """
    return max(least, min(4 * own, 100 * least))


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return bool(((left == right) | ((left != left) & (right != right))).all())


def deviation(want: Tensor, found: Tensor) -> float:
    """Greatest difference, relative to the greatest finite value; infinite where only one is NaN."""
    if want.shape != found.shape:
        return float("inf")
    if not want.numel():
        return 0.0
    want, found = want.double(), found.double()
    gap = torch.where((want == found) | (want.isnan() & found.isnan()), 0.0, (want - found).abs())
    greatest = torch.where(want.isfinite(), want.abs(), 0.0).max()
    error = float(gap.nan_to_num(nan=float("inf")).max())
    return error / max(float(greatest), 1e-30) if error else 0.0
