"""Short names."""

import pytest

from subtuning_hf.plots.names import clipped, names_of, short_names


@pytest.mark.parametrize(
    ("names", "short", "pattern"),
    [
        (["a.0.b", "a.1.b"], ["0", "1"], "a.*.b"),
        (["a.0.b.0", "a.1.b.2"], ["0.0", "1.2"], "a.*.b.*"),
        (["layer1.0", "layer2.1", "layer10.0"], ["1.0", "2.1", "10.0"], "layer*.*"),
        (["s1.b1", "s1.b12"], ["1", "12"], "s1.b*"),
        (["a.0", "b.1"], ["a.0", "b.1"], None),
        (["a.0", "a.b.1"], ["0", "b.1"], "a.*"),
        (["x.a.0.q", "x.a.0.k.l", "x.a.1.q"], ["0.q", "0.k.l", "1.q"], "x.a.*"),
        (["a", "a.b"], ["a", "a.b"], None),
        (["a.0"], ["a.0"], None),
        ([], [], None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else str(value),
)
def test_short_names(names, short, pattern):
    assert short_names(names) == (short, pattern)


def test_short_names_are_as_different_as_the_long_ones():
    for names in (["n.1", "n.11", "n.21"], ["b1.x", "b2.x", "c.x"], ["a.b.c", "a.c", "a.b.d"]):
        assert len(set(short_names(names)[0])) == len(names)


def test_selections_are_named_by_runs():
    blocks = [f"net.{index}" for index in range(5)]

    def name(*places):
        return names_of([[blocks[place] for place in places]], blocks)[0][0]

    assert name() == "head only"
    assert name(3) == "3"
    assert name(1, 2, 3) == "1–3"
    assert name(1, 3) == "1 + 3"
    assert name(0, 1, 2, 3, 4) == "all blocks"
    assert names_of([["net.0"]], ["net.0"])[0] == ["net.0"]


@pytest.mark.parametrize("most", [8, 9, 20])
def test_long_names_keep_their_ends(most):
    name = "features.denseblock.projection"
    shown = clipped(name, most)
    start, end = shown.split("…")
    assert len(shown) <= most and start and name.startswith(start) and name.endswith(end) and len(end) > len(start)
    assert clipped(name, len(name)) == name
