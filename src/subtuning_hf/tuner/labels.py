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
        self._counts = {name: model.__dict__[name] for name in _COUNT_ATTRIBUTES if _is_count(model, name)}
        self._of_adapter: dict[str, dict[int, str]] = {}

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

    def add(self, adapter_name: str, id2label: dict[int, str]) -> None:
        """Record the labels of an adapter."""
        self._of_adapter[adapter_name] = dict(id2label)

    def remove(self, adapter_name: str) -> None:
        """Forget the labels of an adapter."""
        self._of_adapter.pop(adapter_name, None)

    def apply(self, adapter_name: str | None) -> None:
        """Make the model speak of an adapter's labels, or of its own (`None`)."""
        names = self._of_adapter.get(adapter_name) if adapter_name is not None else None
        target = names if names is not None else self._config_names
        config = getattr(self.model, "config", None)
        if target is not None and getattr(config, "id2label", None) != target:
            config.id2label = dict(target)  # type: ignore[union-attr]
            config.label2id = {name: index for index, name in target.items()}  # type: ignore[union-attr]
            if getattr(config, "label_names", None) is not None:  # where TimmWrapperConfig keeps them a second time
                config.label_names = list(target.values())  # type: ignore[union-attr]
        for attribute, count in self._counts.items():
            setattr(self.model, attribute, len(names) if names is not None else count)


def _is_count(model: nn.Module, name: str) -> bool:
    return isinstance(model.__dict__.get(name), int)


def labels_of(model: nn.Module) -> Labels:
    """The [`Labels`] of a base model, made on first use; kept on the model since tuners come and go."""
    labels: Any = model.__dict__.get("_subtuning_labels")
    if labels is None:
        labels = Labels(model)
        model.__dict__["_subtuning_labels"] = labels
    return labels
