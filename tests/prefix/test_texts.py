"""Rows of different length in padded batches: what is stored at a row's own length stands where the row does."""

from functools import partial

import pytest
import torch
from peft import get_peft_model

from prefix.texts import ANSWERS, LENGTHS, collator, texts
from subtuning_hf import SubTuningConfig
from subtuning_hf.prefix import ROWS, Trunk
from toys import TOYS, logits_of

RIGHT = (
    "bert", "roberta", "deberta", "deberta-v2", "distilbert", "modernbert", "llama", "llama-causal", "qwen2", "qwen3",
    "mistral", "gpt2", "gpt2-causal", "t5", "t5-generation",
)  # fmt: skip
LEFT = ("llama", "llama-causal", "qwen2", "qwen3", "mistral")
# Their positions count from the start of the padded row, so that a row's values depend on its padding.
LEFT_REFUSED = ("bert", "gpt2", "gpt2-causal")


def trunk_of(name, side="right", lengths=LENGTHS, **settings):
    toy = TOYS[name]
    rows = texts(lengths, end=1 if name == "t5" else None)
    answers = texts(ANSWERS, seed=1) if name == "t5-generation" else None
    batch_of = collator(rows, side, labels="causal" in name, answers=answers)
    # In float64, where what a processor rounds away in batches of another length cannot decide.
    return Trunk(toy.build().double(), toy.blocks, batch_of, len(rows), batch_size=4, **settings)


def read(output, batch):
    """Logits that count: those of padding are left out."""
    logits = logits_of(output)
    return logits[batch["labels"] != -100] if logits.ndim == 3 else logits


def calls_of(trunk, block):
    called = []
    inner = next(module for module in trunk.learned.modules[block].modules() if not list(module.children()))
    return called, inner.register_forward_pre_hook(lambda *_: called.append(1))


def assert_served(trunk, cut, rows, tolerance=1e-6):
    model, batch = trunk.model, trunk.batch_of(rows)
    called, handle = calls_of(trunk, trunk.blocks[cut - 1])
    with torch.no_grad(), trunk.starting_at(model, cut) as used:
        assert used == cut
        found = model(**batch, **{ROWS: torch.tensor(rows)})
        called.clear()  # a pair of lengths that no row has alone is learned when it first comes up
        again = model(**batch, **{ROWS: torch.tensor(rows)})
        assert not called
        full = model(**batch)
        assert called
    assert torch.equal(logits_of(found), logits_of(again))
    handle.remove()
    want, got = read(full, batch), read(found, batch)
    assert float((want - got).abs().max() / want.abs().max()) <= tolerance
    if getattr(full, "loss", None) is not None:
        assert torch.allclose(full.loss, found.loss, rtol=1e-6)


@pytest.mark.parametrize(("name", "side"), [(name, "right") for name in RIGHT] + [(name, "left") for name in LEFT])
def test_padded_batches_start_at_every_cut(name, side):
    trunk = trunk_of(name, side)
    cuts = tuple(range(1, len(trunk.blocks) + 1))
    assert trunk.fill(cuts) == cuts, trunk.check(cuts)
    assert trunk.learned.side == side and len(trunk.learned.lengths.keys) > 4
    for cut in cuts:
        for rows in ([4, 0, 2], [8, 1, 3], [0, 3], [6]):  # mixed, mixed, of one length, one row
            assert_served(trunk, cut, rows)


@pytest.mark.parametrize("name", LEFT_REFUSED)
def test_positions_that_count_padding_are_refused(name):
    trunk = trunk_of(name, "left")
    verdicts = trunk.check(range(1, len(trunk.blocks) + 1))
    assert all("batched anew" in verdict for verdict in verdicts.values())
    assert trunk.fill([1, 2]) == ()


def test_gradients_of_padded_batches():
    trunk = trunk_of("bert")
    trunk.fill([2])
    model = get_peft_model(trunk.model, SubTuningConfig(blocks=[trunk.blocks[2]]))
    rows = [4, 0, 7]
    batch, grads = trunk.batch_of(rows), []
    for extra in ({}, {ROWS: torch.tensor(rows)}):
        model.train()
        model.zero_grad()
        torch.manual_seed(0)
        with trunk.starting_at(model, 2):
            model(**batch, **extra).logits.pow(2).mean().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, full in grads[0].items():
        assert (grads[1][name] - full).abs().max() <= 1e-6 * max(float(full.abs().max()), 1e-3), name


def test_a_length_that_no_row_has_is_served_too():
    """As a collator that rounds lengths up makes it; what is the same for all rows is learned when it comes up."""
    for name in ("bert", "t5-generation"):
        trunk = trunk_of(name)
        trunk.fill([2])
        rows = [0, 7]
        batch = trunk.batch_of(rows)
        longer = {key: torch.nn.functional.pad(value, (0, 8)) for key, value in batch.items() if key != "labels"}
        called, handle = calls_of(trunk, trunk.blocks[0])
        with torch.no_grad(), trunk.starting_at(trunk.model, 2):
            started = trunk.model(**longer, **{ROWS: torch.tensor(rows)}).logits
            again = trunk.model(**longer, **{ROWS: torch.tensor(rows)}).logits
        assert len(called) == 1  # by the one short call that learned the shapes
        handle.remove()
        full = trunk.model(**longer).logits
        if name == "t5-generation":
            started, again, full = (logits[:, :3] for logits in (started, again, full))
        assert torch.equal(started, again)
        assert torch.allclose(started, full, atol=1e-6 * float(full.detach().abs().max()))


def test_a_row_that_is_cut_short_makes_the_call_run_in_full():
    trunk = trunk_of("bert")
    trunk.fill([2])
    rows = [4, 1]
    short = {key: value[:, :6] for key, value in trunk.batch_of(rows).items()}
    with torch.no_grad(), trunk.starting_at(trunk.model, 2):
        assert torch.equal(trunk.model(**short, **{ROWS: torch.tensor(rows)}).logits, trunk.model(**short).logits)


@pytest.mark.parametrize("asked", ["output_hidden_states", "output_attentions"])
def test_a_call_that_asks_for_what_is_inside_runs_in_full(asked):
    trunk = trunk_of("bert")
    trunk.model.set_attn_implementation("eager")
    trunk.fill([3])
    batch = trunk.batch_of([1, 2])
    with torch.no_grad(), trunk.starting_at(trunk.model, 3):
        found = trunk.model(**batch, **{ROWS: torch.tensor([1, 2]), asked: True})
    inside = found.hidden_states if asked == "output_hidden_states" else found.attentions
    assert len(inside) >= 3 and all(float(one.abs().max()) > 0 for one in inside)


def sounds(norm):
    """Wav2Vec2 on sounds of different length; frames are fewer than samples, by no factor."""
    toy = TOYS["wav2vec2"]
    model = toy.build()
    config = model.config
    config.feat_extract_norm = norm
    torch.manual_seed(0)
    model = type(model)(config).eval()
    rows = [torch.randn(length) for length in (400, 520, 610, 400, 480)]

    def batch_of(numbers):
        chosen = [rows[i] for i in numbers]
        masks = [torch.ones_like(row, dtype=torch.int64) for row in chosen]
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
        return {"input_values": pad(chosen), "attention_mask": pad(masks)}

    return Trunk(model, toy.blocks, batch_of, len(rows), batch_size=2)


def test_sounds_of_different_length(recwarn):
    trunk = sounds("layer")
    assert trunk.fill([1, 3]) == (1, 3)
    assert trunk.verdicts[3].filling == "zeros", "the encoder writes zeros where a sound has ended"
    for cut in (1, 3):
        for rows in ([0, 2, 1], [3, 0]):
            assert_served(trunk, cut, rows)
    assert not [warning for warning in recwarn if "expanded" in str(warning.message)]


def test_a_norm_over_padding_is_refused():
    """Of Wav2Vec2's two ways to normalise, one takes the mean over a whole sound, padding included."""
    assert "batched anew" in sounds("group").check([3])[3]


def test_fixed_length_has_one_bucket_and_different_ones_share_them():
    assert len(trunk_of("bert", lengths=(7, 7, 7)).learned.lengths.keys) == 1
    lengths = trunk_of("bert").learned.lengths
    assert len(lengths.keys) == len(set(LENGTHS))
    assert lengths.rows_of(int(lengths.bucket_of[1])) == [1, 5, 8]
    assert trunk_of("bert").probe().bytes_per_row[1] == sum(LENGTHS) / len(LENGTHS) * 16 * 8


def test_padding_on_no_side_serves_batches_of_one_length_only():
    trunk = trunk_of("bert")
    inner = trunk.batch_of

    def centred(rows):
        batch = inner(rows)
        if len(rows) > 1:
            batch = {key: value.roll(1, dims=1) for key, value in batch.items()}
        return batch

    def batch_of(rows):
        return centred(rows) if len({len(inner([row])["input_ids"][0]) for row in rows}) > 1 else inner(rows)

    trunk = Trunk(trunk.model, trunk.blocks, batch_of, len(LENGTHS))
    assert trunk.fill([2]) == (2,) and trunk.learned.side is None
    called, _ = calls_of(trunk, trunk.blocks[0])
    with torch.no_grad(), trunk.starting_at(trunk.model, 2):
        for rows, full in (([1, 5], False), ([1, 0], True)):
            trunk.model(**batch_of(rows), **{ROWS: torch.tensor(rows)})
            assert bool(called) is full


def test_all_states_in_a_batch_of_different_rows_are_their_own():
    """A wrong place would be seen: the rows of a batch swapped give the outputs swapped."""
    trunk = trunk_of("bert")
    trunk.fill([3])
    with torch.no_grad(), trunk.starting_at(trunk.model, 3):
        batch = trunk.batch_of([4, 0, 2])
        right = trunk.model(**batch, **{ROWS: torch.tensor([4, 0, 2])}).logits
        wrong = trunk.model(**batch, **{ROWS: torch.tensor([4, 2, 0])}).logits
    assert torch.equal(right[0], wrong[0])
    assert torch.allclose(right[[0, 2, 1]], wrong, rtol=1e-6)
    assert not torch.allclose(right[1], right[2])
