"""
The labels of a model's task, kept in step with the adapter that is active.

Knows where transformers and timm keep the number and names of labels; does not know blocks.
"""

from __future__ import annotations

from typing import Any

from torch import nn

# Attributes in which models repeat the number of labels beside their config.
_COUNT_ATTRIBUTES = ("num_labels", "num_classes")


class Labels:
    """
    Number and names of the labels of the base and of each adapter.

    Args:
        model (`torch.nn.Module`): The base model, whose config and attributes are switched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        config = getattr(model, "config", None)
        names = getattr(config, "id2label", None)
        self._config_names = dict(names) if names else None
        self._config_indices = dict(getattr(config, "label2id", None) or {})
        self._counts = {name: model.__dict__[name] for name in _COUNT_ATTRIBUTES if _is_count(model, name)}
        self._of_adapter: dict[str, tuple[int, dict[int, str] | None]] = {}
        # transformers writes the kind of loss it inferred from the number of labels into the config.
        self._problems: dict[str | None, str | None] = {None: getattr(config, "problem_type", None)}
        self._current: str | None = None

    @property
    def base_names(self) -> dict[int, str] | None:
        """Names of the base's labels by index, whatever adapter is active."""
        return self._config_names

    @property
    def base_count(self) -> int | None:
        """Number of labels of the base, where it says so."""
        if self._config_names:
            return len(self._config_names)
        return next(iter(self._counts.values()), None)

    def add(
        self, adapter_name: str, num_labels: int, id2label: dict[int, str] | None = None, problem: str | None = None
    ) -> None:
        """Record the labels of an adapter: their number, their names where they have some, and what they are."""
        self._of_adapter[adapter_name] = (num_labels, dict(id2label) if id2label is not None else None)
        if problem is not None:
            self._problems[adapter_name] = problem

    def problem_of(self, adapter_name: str) -> str | None:
        """What the labels of an adapter are, as transformers found it when it computed a loss."""
        if adapter_name == self._current:
            return getattr(getattr(self.model, "config", None), "problem_type", None)
        return self._problems.get(adapter_name)

    def remove(self, adapter_name: str) -> None:
        """Forget the labels of an adapter."""
        self._of_adapter.pop(adapter_name, None)
        self._problems.pop(adapter_name, None)

    def apply(self, adapter_name: str | None) -> None:
        """Make the model speak of an adapter's labels, or of its own (`None`)."""
        owner = adapter_name if adapter_name in self._of_adapter else None
        width, names = self._of_adapter[owner] if owner is not None else (self.base_count, None)
        config: Any = getattr(self.model, "config", None)
        target = names if names is not None else self._config_names
        if target is not None and getattr(config, "id2label", None) != target:
            config.id2label = dict(target)
            config.label2id = {name: index for index, name in target.items()} if names else dict(self._config_indices)
            if getattr(config, "label_names", None) is not None:  # where TimmWrapperConfig keeps them a second time
                config.label_names = list(target.values())
        if hasattr(config, "problem_type"):
            self._switch_problem(config, owner, width)
        for attribute, count in self._counts.items():
            setattr(self.model, attribute, width if owner is not None else count)

    def _switch_problem(self, config: Any, owner: str | None, width: int | None) -> None:
        if self._current in self._problems:
            self._problems[self._current] = config.problem_type
        self._current = owner
        if owner not in self._problems:
            problem = self._problems[None]
            # What was inferred for the base's number of labels means nothing for one label, or for several after one.
            inferred = "single_label_classification" if width == 1 else "regression" if self.base_count == 1 else None
            self._problems[owner] = None if problem == inferred and width != self.base_count else problem
        config.problem_type = self._problems[owner]


def _is_count(model: nn.Module, name: str) -> bool:
    return isinstance(model.__dict__.get(name), int)


def labels_of(model: nn.Module) -> Labels:
    """The [`Labels`] of a base model, made on first use; kept on the model since tuners come and go."""
    labels: Any = model.__dict__.get("_subtuning_labels")
    if labels is None:
        labels = Labels(model)
        model.__dict__["_subtuning_labels"] = labels
    return labels
