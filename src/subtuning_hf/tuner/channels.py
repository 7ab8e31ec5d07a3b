"""
The inner channels of a block that can be taken out: which ones go together, and how much they weigh.

torch-pruning finds the dependencies between layers and weighs channels; what it finds is tried on random weights before
it is believed, since it takes operations that it does not know for such that keep channels apart. Knows one block and
one call of it; does not know adapters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import MissingDependencyError, how_to_install
from .thin import cut, groups_of, keeps_channels, widths_of

Call = tuple[tuple, dict[str, Any]]

INTERFACE = "its channels are those of the block's input or output"
MIXED = "its channels are not apart from one another, as in attention and where norms go over channels"
ALONE = "it has one channel, or one in each group"
# Of operations of PyTorch's graph: products of computed matrices, and all kinds of softmax and attention.
_MIXING = ("bmm", "softmax", "attention")
_SEED, _HALVES = 0, 3
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Place:
    """
    Channels of one side of a layer.

    Args:
        layer (`str`): Its name in the block.
        side (`str`): `"in"`, `"out"`, or `"both"` where each output channel is an input channel.
        units (`torch.Tensor` of shape `(width,)`): For each channel its unit, -1 for those that are in none.
    """

    layer: str
    side: str
    units: Tensor


@dataclass(frozen=True)
class Channels:
    """
    Inner channels that are taken out together, unit by unit.

    Args:
        count (`int`): Number of units.
        groups (`int`): Channels in each of them, one in each group of a convolution.
        places (`tuple[Place, ...]`): The layers that have them.
        importance (`torch.Tensor` of shape `(count,)`): Magnitude of the weights of each unit, mean 1.
    """

    count: int
    groups: int
    places: tuple[Place, ...]
    importance: Tensor

    @property
    def width(self) -> int:
        """`int`: Number of channels, as the layer that takes them sees them."""
        return self.count * self.groups

    @property
    def makers(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Names of the layers that compute them."""
        return tuple(place.layer for place in self.places if place.side == "out")


def own_call(call: Call) -> Call:
    """A copy of a call's arguments, which blocks may write into, as into the caches of decoders."""
    return pytree.tree_map(lambda one: one.detach().clone() if isinstance(one, Tensor) else deepcopy(one), call)


def kept_by(block: nn.Module, removed: Iterable[tuple[Channels, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """
    What [`cut`] is told for taking out units.

    Args:
        block (`torch.nn.Module`): The block.
        removed (`Iterable[tuple[Channels, torch.Tensor]]`): With channels, the units of them that go.

    Returns: `dict[str, tuple[torch.Tensor, torch.Tensor]]`: By name of a layer, indices of input and output channels.
    """
    masks: dict[str, tuple[Tensor, Tensor]] = {}
    for channels, units in removed:
        for place in channels.places:
            if place.layer not in masks:
                inputs, outputs = widths_of(block.get_submodule(place.layer)) or (0, 0)
                masks[place.layer] = torch.ones(inputs, dtype=torch.bool), torch.ones(outputs, dtype=torch.bool)
            for mask, side in zip(masks[place.layer], ("in", "out"), strict=True):
                if place.side in (side, "both"):
                    mask &= ~torch.isin(place.units, units)
    return {name: (inputs.nonzero()[:, 0], outputs.nonzero()[:, 0]) for name, (inputs, outputs) in masks.items()}


def find_channels(block: nn.Module, call: Call, norm: int) -> tuple[list[Channels], dict[str, str]]:
    """
    The inner channels of a block.

    Args:
        block (`torch.nn.Module`): Stays as it is.
        call (`tuple[tuple, dict]`): Arguments it is called with.
        norm (`int`): 1 or 2, of the weights of a channel.

    Returns: `tuple[list[Channels], dict[str, str]]`: Those that can be taken out, and why other layers keep theirs.
    Raises: [`MissingDependencyError`]: If torch-pruning is not installed.
    """
    pruning = _library()
    traced = _Traced(deepcopy(block), call)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            answers = _answers(pruning, traced, norm)
        # What it cannot follow fails in it with errors of any kind.
        except Exception as error:
            return [], {"": f"torch-pruning cannot follow the block ({type(error).__name__}: {error})"[:300]}
    found: list[Channels] = []
    left: dict[str, str] = {}
    for makers, answer in answers:
        if isinstance(answer, Channels) and _stands(block, call, answer):
            found.append(answer)
        else:
            left.update(dict.fromkeys(makers, answer if isinstance(answer, str) else MIXED))
    order = [name for name, _ in block.named_modules()]
    found.sort(key=lambda channels: min(map(order.index, channels.makers)))
    return found, {layer: left[layer] for layer in order if layer in left}


def _answers(pruning: Any, traced: _Traced, norm: int) -> list[tuple[list[str], Channels | str]]:
    """What torch-pruning finds: layers whose outputs go together, and their channels or why they stay."""
    graph = pruning.DependencyGraph().build_dependency(traced, torch.zeros(1))
    names = {module: name for name, module in traced.block.named_modules()}
    mixed = [module for module in names if module in graph.module2node and _is_mixed(graph.module2node[module])]
    answers: list[tuple[list[str], Channels | str]] = [([names[module]], MIXED) for module in mixed]
    for group in list(graph.get_all_groups(ignored_layers=mixed)):
        makers = [names[dep.target.module] for dep, _ in group if _makes(graph, dep)]
        answers.append((makers, _read(pruning, graph, group, traced, names, norm)))
    return answers


def _library() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingDependencyError(
            f"Pruning blocks needs torch-pruning: {how_to_install('prune')}. Adapters that were pruned load without it."
        ) from error
    return torch_pruning


class _Traced(nn.Module):
    """A block that is called as it was in its model, with ends that a graph of its operations shows."""

    def __init__(self, block: nn.Module, call: Call) -> None:
        super().__init__()
        self.block = block.float().requires_grad_(True)
        self.call = call
        self.entrances: list[Any] = []

    def forward(self, _: Tensor) -> list[Tensor]:
        args, kwargs = pytree.tree_map_only(Tensor, self._enter, own_call(self.call))
        return [one * 1 for one in _outputs(self.block(*args, **kwargs)) if one.requires_grad]

    def _enter(self, given: Tensor) -> Tensor:
        if not given.is_floating_point():
            return given
        entered = given.float().requires_grad_(True) * 1
        self.entrances.append(entered.grad_fn)
        return entered


def _outputs(answer: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(answer) if isinstance(one, Tensor) and one.is_floating_point()]


def _is_mixed(node: Any) -> bool:
    """
    Whether what a layer computes goes into a product or a sum over channels before another layer takes it.

    torch-pruning is not asked about such: it takes these operations for others, and with rotary embeddings it searches
    without end.
    """
    if widths_of(node.module) is None or keeps_channels(node.module):
        return False
    ahead, seen = list(node.outputs), set()
    while ahead:
        one = ahead.pop()
        layer = isinstance(one.module, nn.Module) and widths_of(one.module) is not None
        if one in seen or (layer and not keeps_channels(one.module)):
            continue
        if not layer and any(word in one.grad_fn.name().lower() for word in _MIXING):
            return True
        seen.add(one)
        ahead.extend(one.outputs)
    return False


def _makes(graph: Any, dep: Any) -> bool:
    """Whether a dependency is on the outputs of a layer with weights from all inputs to all outputs."""
    layer = dep.target.module
    return widths_of(layer) is not None and not keeps_channels(layer) and graph.is_out_channel_pruning_fn(dep.handler)


def _read(pruning: Any, graph: Any, group: Any, traced: _Traced, names: Mapping[Any, str], norm: int) -> Channels | str:
    """What a group of dependencies means, or why its channels stay."""
    nodes = [dep.target for dep, _ in group]
    if any(node.type == pruning.ops.OPTYPE.OUTPUT for node in nodes):
        return INTERFACE
    if any(node.grad_fn is entrance for node in nodes for entrance in traced.entrances):
        return INTERFACE
    for layer in (node.module for node in nodes):
        if layer in names and widths_of(layer) is None:
            return f"its channels go through a {type(layer).__name__}"
        if isinstance(layer, nn.Parameter):
            return "its channels have weights outside of layers"
    takers = [dep for dep, _ in group if dep.target.module in names and not _makes(graph, dep)]
    takers = [dep for dep in takers if not keeps_channels(dep.target.module)]
    if not takers:
        return "no layer in the block takes its channels"
    # Seen from the layer that takes them, channels are what is computed, also where half of the outputs gate the rest.
    root = takers[0]
    group = graph.get_pruning_group(
        root.target.module, root.handler, list(range(graph.get_in_channels(root.target.module)))
    )
    layers = [dep.target.module for dep, _ in group if dep.target.module in names]
    groups = max(map(groups_of, layers))
    count, odd = divmod(graph.get_in_channels(root.target.module), groups)
    weights = pruning.importance.GroupMagnitudeImportance(p=norm)(group)
    if odd or weights is None:
        return MIXED
    if count < 2:
        return ALONE
    places = []
    for item in group:
        place = _place(graph, item, names, count)
        if isinstance(place, str):
            return place
        places += [place] if place is not None else []
    if not any(place.side == "out" for place in places):
        return MIXED
    return Channels(count, groups, tuple(places), weights.detach().cpu().view(-1, count).mean(0))


def _place(graph: Any, item: Any, names: Mapping[Any, str], count: int) -> Place | str | None:
    layer = item.dep.target.module
    if layer not in names:
        return None
    makes, both = _makes(graph, item.dep), keeps_channels(layer)
    widths = widths_of(layer)
    if widths is None or any(root is None for root in item.root_idxs):
        return MIXED
    units = torch.full((widths[1] if makes or both else widths[0],), -1)
    units[torch.tensor(item.idxs)] = torch.tensor(item.root_idxs) % count
    return Place(names[layer], "both" if both else "out" if makes else "in", units)


# --- trying it -------------------------------------------------------------------------------
def _stands(block: nn.Module, call: Call, channels: Channels) -> bool:
    """
    Whether a block without some channels computes what the block computes with those channels not looked at.

    Tried with one unit gone, and with several halves: of one half alone, channels in another order may lie alike.
    """
    generator = torch.Generator().manual_seed(_SEED)
    halves = [torch.randperm(channels.count, generator=generator)[: channels.count // 2] for _ in range(_HALVES)]
    given = pytree.tree_map_only(Tensor, lambda one: one.float() if one.is_floating_point() else one, call)
    try:
        return all(_agrees(block, given, channels, units, generator) for units in [torch.tensor([0]), *halves])
    # A block that cannot be run with fewer channels says so by any error.
    except Exception:
        return False


def _agrees(block: nn.Module, call: Call, channels: Channels, removed: Tensor, generator: torch.Generator) -> bool:
    full = deepcopy(block).float()
    # Pretrained weights may hide a whole branch behind a factor that is nearly 0.
    _redraw(full, generator)
    blind, thinned = deepcopy(full), deepcopy(full)
    for place in channels.places:
        layer: Any = blind.get_submodule(place.layer)
        if place.side == "in":
            columns = torch.isin(place.units, removed).nonzero()[:, 0]
            layer.weight.data[:, columns[: len(columns) // groups_of(layer)].to(layer.weight.device)] = 0
    cut(thinned, kept_by(thinned, [(channels, removed)]))
    with torch.no_grad():
        with_all, without, expected = (_outputs(_run(one, call)) for one in (full, thinned, blind))
    return _alike(without, expected) and not _alike(with_all, expected)


def _run(block: nn.Module, call: Call) -> Any:
    args, kwargs = own_call(call)
    return block(*args, **kwargs)


def _alike(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * b.abs().max())
        for a, b in zip(left, right, strict=True)
    )


@torch.no_grad()
def _redraw(block: nn.Module, generator: torch.Generator) -> None:
    for parameter in block.parameters():
        drawn = torch.rand(parameter.shape, generator=generator)
        if parameter.ndim > 1:  # keeps the scale of what goes through
            drawn = (drawn - 0.5) * (12 / max(1, parameter[0].numel())) ** 0.5
        else:
            drawn = drawn + 0.5
        parameter.copy_(drawn)
