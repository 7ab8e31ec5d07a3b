"""The default search, which predicts: with every option it ends within its budget."""

import math

import pytest

from support.cases import NUM_LABELS, Case, Texts, pad, predicted, toy
from support.test_options import FUNCTIONS, OPTIONS

pytestmark = pytest.mark.slow

IMAGES = {name: Case(args=args) for name, args in OPTIONS.items()}
IMAGES |= {name: Case(kwargs=kwargs) for name, kwargs in FUNCTIONS.items()}
IMAGES["workers"] = Case(args={"dataloader_num_workers": 1})
IMAGES["compiled"] = Case(args={"torch_compile": True, "torch_compile_backend": "eager"})
LINE = (lambda: toy("bert"), lambda: Texts(lambda row, ids: row % NUM_LABELS))
TEXTS = {
    "neftune": Case({"neftune_noise_alpha": 5.0}, {"data_collator": pad}, *LINE),
    "group_by_length": Case({"train_sampling_strategy": "group_by_length"}, {"data_collator": pad}, *LINE),
    "gradient checkpointing": Case({"gradient_checkpointing": True}, {"data_collator": pad}, *LINE),
}


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_options(name, tmp_path):
    result = predicted({**IMAGES, **TEXTS}[name], tmp_path)
    assert all(math.isfinite(one.score) for one in result.proposal.predictions)
