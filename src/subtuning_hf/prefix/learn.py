"""
What has to be known of a model before it can be started at a block: the order of its modules, how inputs and outputs
hold their rows, and which outputs a cut needs.

Learned from a few calls, once; templates of outputs are learned for each length when it first comes up. Does not keep
values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PrefixCacheError
from .anatomy import Anatomy, examine, tower_ends
from .capture import capture, device_of, on_device, undisturbed, without_cache
from .inputs import Batch, Inputs, Key, Lengths, learn_inputs, measure, padding_side
from .structure import Dims, Template, compare, tensors_of

# Bytes of what is the same for all rows of a length, such as T5's position biases: more are dropped and made anew.
CONSTANTS = 1 << 29


class Learned:
    """
    A model as it must be known to start at its blocks.

    Args:
        model (`torch.nn.Module`): Bare.
        blocks (`Sequence[str]`): Names of its blocks in forward order.
        batch_of (`Callable`): Row numbers to a batch.
        num_rows (`int`): How many rows there are.
        autocast (`torch.dtype`, *optional*): Of the autocast the model is to run under.

    Raises: [`PrefixCacheError`]: If the model cannot be started at a block.
    """

    anatomy: Anatomy
    inputs: Inputs

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        batch_of: Callable[[Sequence[int]], Batch],
        num_rows: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.blocks, self.autocast = model, tuple(blocks), autocast
        self.batch_of, self.num_rows, self.device = batch_of, num_rows, device_of(model)
        # The objects themselves: adapters put others in their places and change their names.
        self.modules = {name: module for name, module in model.named_modules() if name}
        self.dims: dict[str, tuple[Dims, ...]] = {}
        self._templates: dict[Key, tuple[int, dict[str, Template]]] = {}
        self._constants: dict[Key, list[Tensor]] = {}
        two = self.batch([0, 0])
        with undisturbed(model, autocast):
            self.anatomy = examine(model, self.blocks, lambda: model(**without_cache(model, two)))
            self.inputs = learn_inputs(self.batch, 0, self._matters)
            self._learn_dims(two, self.batch([0, 0, 0]))
        self.lengths: Lengths = measure(self.inputs, batch_of, num_rows)
        self.side: str | None = padding_side(self.inputs, batch_of, self.lengths)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Some rows together, where the model is."""
        return on_device(self.batch_of(rows), self.device)

    # --- structure ----------------------------------------------------------------------------
    def templates(self, key: Key, batch: Mapping[str, Any], blocks: int) -> dict[str, Template]:
        """
        Templates of outputs at one length.

        Args:
            key (`Key`): The length.
            batch (`Mapping[str, Any]`): Any batch of it; its first row is run as far as needed if the length is new.
            blocks (`int`): How many of the first blocks are wanted, and what runs before the last of them.

        Returns: `dict[str, Template]`: By name; a module that is no block may be missing.
        """
        reached, known = self._templates.pop(key, (0, {}))
        if reached < blocks:
            early = [name for name in self.dims if name not in self.blocks and self.anatomy.early(name, blocks)]
            names = [name for name in (*self.blocks[:blocks], *early) if name not in known]
            with undisturbed(self.model, self.autocast):
                copies = self.inputs.copies(batch, 2)
                outputs = capture(self.model, {name: self.modules[name] for name in names}, copies)
            for name, output in outputs.items():
                try:
                    known[name] = Template.read(output, self.dims[name], 2).sharing(self._constants.setdefault(key, []))
                except PrefixCacheError:
                    if name in self.blocks:
                        raise
        # Back at the end: the first is the one that was not asked for longest.
        self._templates[key] = max(reached, blocks), known
        while len(self._templates) > 1 and self._constant_bytes() > CONSTANTS:
            oldest = next(iter(self._templates))
            del self._templates[oldest]
            self._constants.pop(oldest, None)
        return known

    def _constant_bytes(self) -> int:
        return sum(one.nbytes for pool in self._constants.values() for one in pool)

    def templates_of_row(self, key: Key, row: int, blocks: int) -> dict[str, Template]:
        """The same at the length of a row."""
        reached, known = self._templates.get(key, (0, {}))
        return known if reached >= blocks else self.templates(key, self.batch([row]), blocks)

    def _learn_dims(self, two: Batch, three: Batch) -> None:
        """Dimensions of what blocks and other early modules return; the latter may be anything, and then have none."""
        outer = [name for name in self.anatomy.once if not self._has_block(name) and not self._in_block(name)]
        names = {name: self.modules[name] for name in [*self.blocks, *outer] if name}
        left, right = capture(self.model, names, two), capture(self.model, names, three)
        for name in names:
            try:
                self.dims[name] = compare(left[name], right[name])
            except PrefixCacheError as error:
                if name in self.blocks:
                    raise PrefixCacheError(f"Block '{name}': {error}") from error

    def _matters(self, batch: Batch, name: str) -> bool:
        last = {self.blocks[-1]: self.modules[self.blocks[-1]]}
        try:
            full = tensors_of(capture(self.model, last, batch))
            less = tensors_of(capture(self.model, last, {key: batch[key] for key in batch if key != name}))
        except Exception:  # without it the model does not run
            return True
        return full.keys() != less.keys() or any(not torch.equal(full[path], less[path]) for path in full)

    def _in_block(self, name: str) -> bool:
        return any(f"{name}.".startswith(f"{block}.") for block in self.blocks)

    def _has_block(self, name: str) -> bool:
        return any(not name or block.startswith(f"{name}.") for block in self.blocks)

    # --- cuts ---------------------------------------------------------------------------------
    def needed(self, cut: int) -> list[int]:
        """
        Numbers of the blocks whose outputs a cut needs: the one before it, and in a model of encoder and decoder the
        last of the encoder too.
        """
        if not cut:
            return []
        return sorted({end for end in tower_ends(self.model, self.blocks) if end < cut - 1} | {cut - 1})

    def row_bytes(self, cut: int) -> float:
        """Mean bytes per row that a cut takes."""
        names = [self.blocks[j] for j in self.needed(cut)]
        total = 0
        for bucket, key in enumerate(self.lengths.keys):
            known = self.templates_of_row(key, self.lengths.rows_of(bucket)[0], cut)
            total += self.lengths.count(bucket) * sum(known[name].row_bytes for name in names)
        return total / max(self.num_rows, 1)
