"""Texts of different length, collated as transformers' tokenizers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toy_modules import VOCABULARY

LENGTHS = (5, 9, 7, 5, 12, 9, 7, 6, 9)
ANSWERS = (3, 4, 2, 5, 3, 2, 4, 4, 3)


def texts(lengths: Sequence[int] = LENGTHS, seed: int = 0, end: int | None = None) -> list[Tensor]:
    """Token ids of shape `(length,)`, the last one `end` where given."""
    random = torch.Generator().manual_seed(seed)
    rows = [torch.randint(5, VOCABULARY, (length,), generator=random) for length in lengths]
    for row in rows if end is not None else []:
        row[-1] = end
    return rows


def padded(rows: Sequence[Tensor], side: str, value: int = 0) -> Tensor:
    """Rows together, of shape `(rows, longest)`."""
    longest = max(map(len, rows))
    out = torch.full((len(rows), longest), value)
    for i, row in enumerate(rows):
        out[i, slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)] = row
    return out


def collator(
    rows: Sequence[Tensor], side: str = "right", labels: bool = False, answers: Sequence[Tensor] | None = None
) -> Callable[[Sequence[int]], dict[str, Tensor]]:
    """
    Row numbers to a batch.

    Args:
        rows (`Sequence[torch.Tensor]`): Texts.
        side (`str`): Where they are padded.
        labels (`bool`): For causal language models: the tokens, -100 where padded.
        answers (`Sequence[torch.Tensor]`): For encoder and decoder: what the decoder reads and is to say.
    """

    def batch_of(numbers: Sequence[int]) -> dict[str, Tensor]:
        chosen = [rows[i] for i in numbers]
        batch = {
            "input_ids": padded(chosen, side),
            "attention_mask": padded([torch.ones_like(row) for row in chosen], side),
        }
        if labels:
            batch["labels"] = padded(chosen, side, -100)
        if answers is not None:
            batch["decoder_input_ids"] = padded([answers[i] for i in numbers], side)
            batch["labels"] = padded([answers[i] for i in numbers], side, -100)
        return batch

    return batch_of
