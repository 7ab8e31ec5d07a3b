"""
The order in which a model calls its modules, and what each block's forward pass costs.

Seen in one call, not read from names. Knows modules and blocks; does not know rows or stores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks
from torch.utils.flop_counter import FlopCounterMode

from ..errors import PrefixCacheError, UnknownBlockError


@dataclass(frozen=True)
class Anatomy:
    """
    What one call of a model showed.

    Args:
        blocks (`tuple[str, ...]`): Names of the blocks in the order in which they were called.
        positions (`dict[str, int]`):
            Every module that was called to the number of blocks that came before it: block j and all in it to j.
        once (`frozenset[str]`): Modules that were called exactly once.
        shares (`tuple[float, ...]`): Share of each block in the cost of the call, in 0 ... 1.
    """

    blocks: tuple[str, ...]
    positions: dict[str, int]
    once: frozenset[str]
    shares: tuple[float, ...]

    def cut_of(self, model: nn.Module, names: Sequence[str]) -> int:
        """
        The greatest cut from which a model can be started when some of its modules are to be trained.

        Args:
            model (`torch.nn.Module`): Bare.
            names (`Sequence[str]`): Full names of modules, in blocks, around blocks or outside of them.

        Raises: [`UnknownBlockError`]: If the model has no such module.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        cuts = [len(self.blocks)]
        for name in names:
            if name not in modules:
                raise UnknownBlockError(f"Expected names of modules of the bare model, found '{name}'.")
            cuts += [
                self._position(f"{name}.{below}".strip("."), part) for below, part in modules[name].named_modules()
            ]
        return min(cuts)

    def _position(self, name: str, module: nn.Module) -> int:
        home = next((j for j, block in enumerate(self.blocks) if f"{name}.".startswith(f"{block}.")), None)
        if home is not None:
            return home
        if name in self.positions:
            return self.positions[name]
        # Never called by itself: a list of modules says nothing, weights that the model reads may be read anywhere.
        held = [*module._parameters.values(), *module._buffers.values()]
        return 0 if any(tensor is not None for tensor in held) else len(self.blocks)

    def stem(self, cut: int) -> list[str]:
        """
        Outermost modules that ran before the last block ahead of a cut and hold no block: embeddings and the like.

        Whether the model can do without them is for trials to say.
        """
        return self._outermost(name for name in self.positions if self.early(name, cut))

    def parts(self, name: str, cut: int) -> list[str]:
        """The same among the modules within one of them."""
        return self._outermost(n for n in self.positions if n.startswith(f"{name}.") and self.early(n, cut))

    def early(self, name: str, cut: int) -> bool:
        """Whether a module holds no block, is in none, and ran once, before the last block ahead of a cut."""
        apart = not any(f"{b}.".startswith(f"{name}.") or f"{name}.".startswith(f"{b}.") for b in self.blocks)
        return bool(name) and apart and name in self.once and self.positions[name] < cut

    def _outermost(self, names: Iterator[str]) -> list[str]:
        found = list(names)
        chosen = set(found)
        return [n for n in found if not any(n[:i] in chosen for i, letter in enumerate(n) if letter == ".")]


def examine(model: nn.Module, blocks: Sequence[str], call: Callable[[], Any]) -> Anatomy:
    """
    Watch one call of a model.

    Args:
        model (`torch.nn.Module`): Bare.
        blocks (`Sequence[str]`): Names of its blocks.
        call (`Callable`): Calls it.

    Raises: [`PrefixCacheError`]: If a block is not called, or more than once, or in another order.
    """
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    of_block = {id(modules[name]): j for j, name in enumerate(blocks)}
    try:
        counter = FlopCounterMode(display=False)
        watch = _Watch(names, of_block, counter)
        with watch.watching(), counter:
            call()
    except Exception:  # the counter does not know an operation; blocks then count alike
        watch = _Watch(names, of_block, None)
        with watch.watching():
            call()
    if watch.order != list(range(len(blocks))):
        raise PrefixCacheError(_disorder(blocks, watch.order))
    return Anatomy(
        tuple(blocks),
        watch.positions,
        frozenset(name for name, count in watch.calls.items() if count == 1),
        watch.shares(),
    )


def tower_ends(model: nn.Module, blocks: Sequence[str]) -> list[int]:
    """Numbers of blocks, apart from the last, whose outputs are read by more than the next: the end of an encoder."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        return []
    homes = [name.rpartition(".")[0] for name in blocks]
    return [j for j in range(len(homes) - 1) if homes[j] != homes[j + 1]]


class _Watch:
    def __init__(self, names: Mapping[int, str], of_block: Mapping[int, int], flops: FlopCounterMode | None) -> None:
        self.names, self.of_block, self.flops = names, of_block, flops
        self.order: list[int] = []
        self.positions: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.costs: dict[int, float] = {}
        self.inside: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def shares(self) -> tuple[float, ...]:
        total = self.flops.get_total_flops() if self.flops is not None else 0
        if not total:
            return (1.0 / len(self.of_block),) * len(self.of_block)
        return tuple(self.costs.get(j, 0.0) / total for j in range(len(self.of_block)))

    def _enter(self, module: nn.Module, _args: Any) -> None:
        name = self.names.get(id(module))
        if name is None:
            return
        block = self.of_block.get(id(module))
        if block is not None and self.inside is None:
            self.order.append(block)
            self.inside = block
            self.costs[block] = -self._spent()
        self.calls[name] += 1
        self.positions.setdefault(name, len(self.order) if self.inside is None else self.inside)

    def _leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        block = self.of_block.get(id(module))
        if block is not None and block == self.inside:
            self.inside = None
            self.costs[block] += self._spent()

    def _spent(self) -> float:
        return 0.0 if self.flops is None else float(self.flops.get_total_flops())


def _disorder(blocks: Sequence[str], order: Sequence[int]) -> str:
    seen = [blocks[j] for j in order]
    twice = next((name for name, count in Counter(seen).items() if count > 1), None)
    if twice is not None:
        return f"Block '{twice}' is called more than once in one pass, so that its input is not one value."
    never = next((name for name in blocks if name not in seen), None)
    if never is not None:
        return f"Block '{never}' is never called in a pass."
    first = next(i for i, j in enumerate(order) if i != j)
    return f"Blocks are called in another order than given: '{seen[first]}' where '{blocks[first]}' was expected."
