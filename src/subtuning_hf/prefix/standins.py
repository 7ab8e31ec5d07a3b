"""
Stands in for the blocks before a cut while a model is called with the numbers of its rows.

Blocks that are skipped return dummies of the right shape, the last of them what is stored for its output; everything
between them runs as usual, so masks, positions and other side inputs stay right. Knows modules and templates; does not
know where stored values come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import PrefixCacheError
from .capture import Forward, Forwards, without_cache
from .structure import Template

# The argument under which a batch brings the numbers of its rows, an int64 tensor of shape (batch,).
ROWS = "subtuning_rows"


@dataclass(frozen=True)
class Call:
    """
    What stands in during one call of the model.

    Args:
        templates (`Mapping[str, Template]`): Of the outputs of all modules that do not run, by name.
        size (`int`): Number of rows in the batch.
        device (`torch.device`): Of the model.
        real (`Callable[[str], Any]`): The output of a module whose values matter.
        wanted (`frozenset[str]`): Names of these.
        filling (`str`): Of dummies, as [`Template.dummy`] has it.
    """

    templates: Mapping[str, Template]
    size: int
    device: torch.device
    real: Callable[[str], Any]
    wanted: frozenset[str]
    filling: str = "thin"

    def output(self, name: str) -> Any:
        """What a module returns."""
        if name in self.wanted:
            return self.real(name)
        return self.templates[name].dummy(self.size, self.device, self.filling)


class Session:
    """
    A model that starts at a cut in every call that brings row numbers, from `install()` to `uninstall()`.

    A call without them runs in full.

    Args:
        top (`torch.nn.Module`): What is called: the base model, or the model of adapters around it.
        model (`torch.nn.Module`): The base model.
        skipped (`Mapping[str, torch.nn.Module]`): Modules that need not run, by name.
        prepare (`Callable`): Row numbers and arguments of a call to its [`Call`], `None` where it has to run in full.
    """

    def __init__(
        self,
        top: nn.Module,
        model: nn.Module,
        skipped: Mapping[str, nn.Module],
        prepare: Callable[[torch.Tensor, dict[str, Any]], Call | None],
    ) -> None:
        self.top, self.model, self.skipped, self.prepare = top, model, skipped, prepare
        self._call: Call | None = None
        self._forwards = Forwards()
        self._handles: list[Any] = []

    def install(self) -> None:
        """Begin."""
        try:
            for name, module in self.skipped.items():
                self._forwards.replace(module, self._stand_in(name))
            # First of all hooks, so that none of the others meets the row numbers.
            self._handles = [
                self.top.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
                self.top.register_forward_hook(self._after, always_call=True),
            ]
        except BaseException:
            self.uninstall()
            raise

    def uninstall(self) -> None:
        """End; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._call = [], None
        self._forwards.restore()

    def _stand_in(self, name: str) -> Callable[[Forward], Forward]:
        def make(original: Forward) -> Forward:
            def forward(*args: Any, **kwargs: Any) -> Any:
                call = self._call
                return original(*args, **kwargs) if call is None else call.output(name)

            return forward

        return make

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if ROWS not in kwargs:
            self._call = None
            return None
        if module is not self.top:
            raise PrefixCacheError(
                "Stored block inputs cannot be used by copies of the model, as `DataParallel` makes them. Launch one "
                "process per device instead."
            )
        self._call = None
        kwargs = dict(kwargs)
        rows = kwargs.pop(ROWS)
        if rows is not None and not args and self.skipped:
            self._call = self.prepare(rows, kwargs)
            if self._call is not None:
                kwargs = without_cache(self.model, kwargs)
        return args, kwargs

    def _after(self, *_ignored: Any) -> None:
        self._call = None
