"""`subtuning report`: the page of whole, unfinished, damaged and hostile studies, and which files it takes."""

import argparse
import json
import random
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib")

from plots.studies import NAMES, study_of
from subtuning_hf.cli import report
from subtuning_hf.errors import ArgumentsError, JournalError, JournalVersionError
from subtuning_hf.report import Picture, ReportFacts, Salvaged, make_page, salvage
from subtuning_hf.report.page import MARK
from subtuning_hf.report.words import ranges
from subtuning_hf.search.journal import Journal, read_study
from subtuning_hf.search.proposals import Predicted, ProposalRun
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, FinalRun, SearchSpec, StudySpec
from subtuning_hf.search.scores import score_of

FORWARD = SearchSpec(max_blocks=2)
WORTH = {NAMES[3]: 0.2, NAMES[0]: 0.1}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Elements, texts and tables of a page; an end without its start is an error."""

    VOID = ("img", "input", "meta", "source", "br")

    def __init__(self, words: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(words)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "caption":
            self.caption, self.rows = "", []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.texts.append(data)
        if "caption" in self.open:
            self.caption += data
        elif "td" in self.open or ("th" in self.open and self.rows):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        hidden = "".join(part for part in self.texts)
        return re.sub(r"\s+", " ", hidden)


def write(folder, study):
    """Put a study on disk."""
    with Journal.open(folder / "journal", study.spec) as journal:
        for entry in (*study.searches, *study.proposals, *study.evaluations, *study.finals):
            journal.append(entry)
    return folder


def options(*words):
    parser = argparse.ArgumentParser(prog="subtuning report")
    report.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def made(folder, *words):
    """The page of a study."""
    target = folder / "page.html"
    assert report.run(options(folder, "--output", target, *words)) == 0
    return Page(target.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def no_defaults(request, monkeypatch):
    """Importing the arguments takes seconds, and one test is about it."""
    if "defaults" not in request.node.name:
        monkeypatch.setattr(report, "_defaults", lambda: {"seed": 42, "learning_rate": 5e-5})


@pytest.fixture
def plain(monkeypatch):
    """Without pictures, for tests that are not about them."""
    monkeypatch.setattr(report, "_pictures", lambda material, notes: {})


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A finished forward search."""
    return write(tmp_path_factory.mktemp("flowers"), study_of(NAMES, WORTH, [FORWARD], folds=2))


@pytest.fixture(scope="module")
def whole(search):
    """Its page."""
    report_defaults, report._defaults = report._defaults, lambda: {}
    try:
        return made(search)
    finally:
        report._defaults = report_defaults


# --- what is on the page --------------------------------------------------------------------
def test_a_finished_search_is_told_from_choice_to_journal(search, whole):
    study = read_study(search / "journal")
    assert f"Chosen: {NAMES[3]} + {NAMES[0]}." in whole.text and "6 blocks · 2 folds · accuracy" in whole.text
    headings = [attributes["id"].removesuffix("-heading") for attributes in whole.all("h2")]
    assert headings == ["profile", "ladder", "pareto", "cost", "limits", "identity", "records"]
    rows = whole.tables["Finished evaluations"]
    assert len(rows) == 1 + len(study.evaluations)
    assert [row[rows[0].index("accuracy")] for row in rows[1:]] == [f"{e.score:.4f}" for e in study.evaluations]
    profile = whole.tables["accuracy of each block alone; chosen blocks are marked"]
    assert [row[0] for row in profile[1:]] == ["–", *map(str, range(6))]
    assert [row[1] for row in profile[1:]] == ["head\xa0only", *NAMES]
    steps = whole.tables["Steps of the search (forward); those that were taken are marked"]
    assert [row[1] for row in steps[1:]] == ["head only", NAMES[3], NAMES[0]]
    assert study.spec.fingerprint in whole.text


@pytest.mark.parametrize("worth", [WORTH, {}], ids=["two blocks", "no block"])
def test_the_page_of_a_model_without_a_head_speaks_of_none(worth, tmp_path):
    page = made(write(tmp_path / "study", study_of(NAMES, worth, [FORWARD], folds=2, has_head=False)))
    shown = page.text.partition("(function")[0]  # and not the names in the script
    said = [shown, *(image.get("alt", "") for image in page.all("img")), *page.tables]
    assert len(said) > 5
    assert not [found[0] for each in said for found in re.finditer(r".{0,60}\bheads?\b.{0,30}", each)]
    assert "untouched base" in page.text


def test_the_page_needs_nothing_but_itself(whole):
    for tag, attributes in whole.elements:
        for name in ("src", "srcset", "href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name)
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    assert not whole.all("link") and not whole.all("iframe") and len(whole.all("script")) == 1
    policy = next(a["content"] for a in whole.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_the_page_can_be_read_by_those_who_do_not_see_it(search, whole):
    study = read_study(search / "journal")
    head = f"The head alone has {score_of(e for e in study.evaluations if not e.candidate.blocks):.4f}."
    images = whole.all("img")
    assert len(images) >= 4 and all(len(image["alt"]) > 40 for image in images)
    assert any(NAMES[3] in image["alt"] and head in image["alt"] for image in images)
    assert len(whole.all("source")) == len(images) and all("dark" in one["media"] for one in whole.all("source"))
    assert len(whole.all("table")) == len(whole.all("caption")) == len(whole.tables)
    assert all("scope" in head for head in whole.all("th"))
    assert whole.all("html")[0]["lang"] == "en" and len(whole.all("h1")) == 1 and whole.all("main")
    ids = [a["id"] for _, a in whole.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in whole.all("a")} <= set(ids)


def test_colours_stand_off_their_grounds():
    from subtuning_hf.report.style import CSS

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                   for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))  # fmt: skip

    schemes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in CSS.split(":root")[1:3]]
    assert len(schemes) == 2
    for scheme in schemes:
        for ground in ("ground", "soft", "mark", "warn", "bad"):
            for ink in ("text", "muted", "accent") if ground in ("ground", "soft") else ("text",):
                high, low = sorted((luminance(scheme[ground]), luminance(scheme[ink])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, ink, scheme)


def test_the_same_study_gives_the_same_page(search, tmp_path, plain):
    for name in ("one.html", "two.html"):
        report.run(options(search, "--output", tmp_path / name))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_loss_is_shown_as_it_is(tmp_path, plain):
    page = made(write(tmp_path, study_of(NAMES, WORTH, [FORWARD], folds=2, loss=True)))
    rows = page.tables["Finished evaluations"]
    losses = [float(row[rows[0].index("eval_loss")]) for row in rows[1:]]
    assert all(0 < loss < 1 for loss in losses) and "eval_loss (lower is better)" in page.text


def test_the_steps_of_a_search_from_both_ends_are_told_once(tmp_path, plain):
    both = SearchSpec(direction="best")
    study = study_of(NAMES, WORTH, [both], folds=2)
    study = replace(study, searches=(both, SearchSpec(), SearchSpec(direction="backward")))
    page = made(write(tmp_path, study))
    steps = [caption for caption in page.tables if caption.startswith("Steps of the search")]
    assert [caption.partition(")")[0] for caption in steps] == [
        "Steps of the search (forward", "Steps of the search (backward"
    ]  # fmt: skip
    labels = [region["aria-label"] for region in page.all("div") if region.get("role") == "region"]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize(
    "numbers, words",
    [((), "head only"), ((2,), "2"), ((0, 1, 3), "0–1, 3"), ((0, 2, 3, 4), "0, 2–4"), (range(6), "all")],
)
def test_selections_are_written_by_number(numbers, words):
    places = {name: place for place, name in enumerate(NAMES)}
    assert ranges([NAMES[number] for number in numbers], places) == words


def predicting(folds=3):
    """A search that predicted three selections, trained two of them on one fold, and chose the one predicted second."""
    base = study_of(NAMES, WORTH, [], folds=folds)
    spec = SearchSpec(strategy="short-profile", budget=1.0)
    first, second, third = (Candidate((name,)) for name in (NAMES[0], NAMES[3], NAMES[1]))
    predictions = tuple(Predicted(c, (s,)) for c, s in ((first, 0.3), (second, 0.2), (third, 0.1)))
    run = ProposalRun(spec, predictions, (first, second), (1,), 0.5, 0.4, 0.9, 3.5)
    trained = [Evaluation(c, 1, s, 200, trainable_parameters=10, seconds=2.0, budget=0.5) for c, s in
               ((first, 0.5), (second, 0.9))]  # fmt: skip
    return replace(base, searches=(spec,), proposals=(run,), evaluations=tuple(trained), writers=("rank-0000",) * 2)


def test_a_search_that_predicts_shows_what_was_measured_of_it(tmp_path, plain):
    page = made(write(tmp_path, predicting()))
    rows = page.tables["Predicted and measured (short-profile, forward, budget 1); the chosen one is marked"]
    assert rows[0][:3] == ["selection", "predicted", "accuracy, measured"]
    assert [row[:3] for row in rows[1:]] == [
        [NAMES[0], "0.3000", "0.5000"], [NAMES[3], "0.2000", "0.9000"], [NAMES[1], "0.1000", ""]
    ]  # fmt: skip
    assert f"Chosen: {NAMES[3]}." in page.text and "with 50 % of the steps on fold 1" in page.text
    assert "on 1 of 3 folds, 50 % of the steps" in page.text
    cost = page.tables["What it took"]
    assert cost[1][cost[0].index("full fine-tunes, in arithmetic")] == "0.90"


def test_final_trainings_are_told_by_selection(tmp_path, plain):
    runs = [FinalRun(Candidate((NAMES[3],)), s, {"test_accuracy": 0.7 + s / 10, "test_runtime": 1.0}) for s in (0, 2)]
    page = made(write(tmp_path, replace(study_of(NAMES, WORTH, [FORWARD], folds=2), finals=tuple(runs))))
    assert page.tables["Final trainings"][1:] == [[NAMES[3], "test_accuracy", "0, 2", "0.8000", "0.1414"]]


def test_settings_that_differ_from_their_defaults_are_told(tmp_path, plain):
    from subtuning_hf.training.arguments import GreedySubTuningArguments
    from subtuning_hf.training.identity import settings_of

    study = study_of(NAMES, WORTH, [FORWARD], folds=2)
    arguments = settings_of(GreedySubTuningArguments("x", learning_rate=0.25, seed=7), True, True)
    spec = StudySpec(study.spec.blocks, 2, "accuracy", True, settings={"arguments": {**arguments, "old": None}})
    page = made(write(tmp_path, replace(study, spec=spec)))
    rows = page.tables["Settings that differ from their defaults"]
    assert rows[1:] == [["learning_rate", "0.25", "5e-05"], ["seed", "7", "42"]]


def test_many_evaluations_stay_small(tmp_path, plain):
    names = [f"vit.encoder.layer.{index}.with_a_long_name" for index in range(48)]
    base = study_of(names, {}, [], folds=3)
    some = [Candidate(tuple(n for i, n in enumerate(names) if (number >> (i % 11)) & 1)) for number in range(1, 1668)]
    every = [Evaluation(c, fold, 0.5, 10, {"eval_loss": 0.1}, 10, 1.0, {"started": 1.7e9}) for c in dict.fromkeys(some)
             for fold in range(3)]  # fmt: skip
    assert len(every) >= 5000
    words = make_page(ReportFacts("many", replace(base, evaluations=tuple(every))))
    assert len(words.encode()) < 2_500_000
    rows = Page(words).tables["Finished evaluations"]
    assert len(rows) == 1 + len(every) and rows[1][1] == "0, 11, 22, 33, 44"


def test_of_very_many_pictures_the_first_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_picture", lambda material, what, name, draw: Picture("data:,", "data:,", name))
    extra = [Candidate(NAMES[i : i + size]) for size in range(1, 6) for i in range(7 - size)]
    page = made(write(tmp_path, study_of(NAMES, WORTH, [], extra, folds=2)))
    alts = [image["alt"] for image in page.all("img")]
    assert [alt for alt in alts if alt.startswith("profile")] == ["profile", "profile_windows-2", "profile_windows-3"]
    assert "pareto" in alts and "1 more pictures of the profile are left out" in page.text


# --- comparison -----------------------------------------------------------------------------
def method(name, blocks, mean, **more):
    return {
        "method": name, "blocks": blocks, "mean": mean, "spread": 0.01, "scores": [mean, mean], "num_examples": 90,
        "cv_mean": mean, "learning_rate": 0.01, "learning_rate_at_edge": name == "LP", "trainable_parameters": 50,
        "seconds": 2.0, **more,
    }  # fmt: skip


def test_a_comparison_beside_is_told_and_one_of_other_blocks_is_not(tmp_path, plain):
    folder = write(tmp_path / "study", study_of(NAMES, WORTH, [FORWARD], folds=2))
    ours = method("SubTuning", [NAMES[0], NAMES[3]], 0.8)
    rows = [method("LP", [], 0.5), method("ridge", None, 0.6, learning_rate=None), ours]
    (tmp_path / "results.json").write_text(json.dumps({"methods": [*rows[:2], {**ours, "blocks": [NAMES[1]]}]}))
    assert "Methods on the same test rows" not in made(folder).tables
    (tmp_path / "results.json").write_text(json.dumps({"methods": rows}))
    page = made(folder)
    shown = page.tables["Methods on the same test rows"]
    assert [row[:2] for row in shown[1:]] == [["LP", "0.5000 ± 0.0100"], ["ridge", "0.6000 ± 0.0100"],
                                              ["SubTuning", "0.8000 ± 0.0100"]]  # fmt: skip
    assert [row[shown[0].index("learning rate")] for row in shown[1:]] == ["0.01*", "", "0.01"]
    assert "SubTuning wins" in page.text


def test_a_comparison_is_read_from_its_log(tmp_path, plain):
    folder = write(tmp_path / "study", study_of(NAMES, WORTH, [FORWARD], folds=2))
    other, lines = tmp_path / "other", []
    other.mkdir()
    for blocks, score in (([], 0.5), ("all", 0.7), (sorted([NAMES[3], NAMES[0]]), 0.8)):
        for seed in (0, 1):
            for scored, value in (("fold", 0.1), ("test", score + seed / 10)):
                key = {"task": "t", "blocks": blocks, "learning_rate": 0.1, "seed": seed, "scored": scored}
                run = {"score": value, "num_examples": 10, "trainable_parameters": 5, "seconds": 1.0}
                lines.append(json.dumps({"key": key, "run": run}))
    log = other / "runs.jsonl"
    log.write_text("\n".join([*lines, '{"key": {"cut'])[:-1])
    before = log.read_bytes()
    shown = made(folder, "--compare", other).tables["Methods on the same test rows"]
    assert [row[:2] for row in shown[1:]] == [["LP", "0.5500 ± 0.0707"], ["FT", "0.7500 ± 0.0707"],
                                              ["SubTuning", "0.8500 ± 0.0707"]]  # fmt: skip
    assert log.read_bytes() == before, "a log that is being written to is not ours to mend"


def test_a_comparison_that_was_asked_for_must_be_there(search, tmp_path, plain):
    with pytest.raises(ArgumentsError, match="no folder"):
        made(search, "--compare", tmp_path / "nowhere")
    (tmp_path / "results.json").write_text("[" * 100_000)
    with pytest.raises(ArgumentsError, match="holds no comparison of the chosen blocks"):
        made(search, "--compare", tmp_path)


# --- unfinished and damaged studies ---------------------------------------------------------
def cut(folder, keep):
    """Keep the first lines of a journal."""
    file = folder / "journal" / "rank-0000.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(lines[:keep]) + b"\n")
    return file


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 9, 17])
def test_an_unfinished_search_says_so_and_shows_what_there_is(keep, tmp_path, plain):
    folder = write(tmp_path, study_of(NAMES, WORTH, [FORWARD], folds=2))
    cut(folder, keep)
    page = made(folder)
    assert "Nothing is chosen yet." in page.text
    assert ("Not finished: the search (forward) lacks" in page.text) == (keep > 1)
    assert len(page.tables.get("Finished evaluations", [[]])) - 1 == max(0, keep - 2)


def test_a_search_that_still_predicts_is_named(tmp_path, plain):
    page = made(write(tmp_path, replace(predicting(), proposals=(), evaluations=())))
    assert "the search (short-profile, forward) was predicting" in page.text


def test_a_damaged_line_is_named_and_left_out(tmp_path, capsys):
    folder = write(tmp_path, study_of(NAMES, WORTH, [FORWARD], folds=2))
    file = folder / "journal" / "rank-0000.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[6], lines[9] = lines[6].replace(b'"fold"', b'"fo<b>ld"'), b"\x00\xff"
    file.write_bytes(b"\n".join(lines))
    before = file.read_bytes()
    page = made(folder)
    assert "The journal is damaged." in page.text and "2 lines are damaged" in page.text
    assert "line 7: " in page.text and "line 10: " in page.text and str(tmp_path) not in page.text
    assert len(page.tables["Finished evaluations"]) == len(lines) - 2 - 2  # header, search, and the end
    assert "2 lines are damaged" in capsys.readouterr().out and file.read_bytes() == before


def test_every_cut_of_a_journal_gives_a_page_or_an_error_of_ours(tmp_path, plain):
    folder = write(tmp_path, study_of(NAMES[:2], {NAMES[0]: 0.2}, [SearchSpec(max_blocks=1)], folds=2))
    file = folder / "journal" / "rank-0000.jsonl"
    data, pages = file.read_bytes(), 0
    for end in range(0, len(data), 37):
        file.write_bytes(data[:end])
        try:
            made(folder)
            pages += 1
        except JournalError as error:
            assert end <= data.index(b"\n"), error
    assert pages > 20


def test_any_overwritten_bytes_give_a_page_or_an_error_of_ours(tmp_path, plain):
    folder = write(tmp_path, study_of(NAMES[:3], {NAMES[0]: 0.2}, [SearchSpec(max_blocks=2)], folds=2))
    file = folder / "journal" / "rank-0000.jsonl"
    data, chance, pages = file.read_bytes(), random.Random(0), 0
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(data.index(b"\n"), len(data))] = chance.choice(b'0123456789"{}[],:\n-e.')
        file.write_bytes(changed)
        try:
            made(folder)
            pages += 1
        except JournalError:
            pass
    assert pages >= 55


def test_files_of_two_studies_and_of_none_are_left_out(tmp_path, plain):
    folder = write(tmp_path / "one", study_of(NAMES, WORTH, [FORWARD], folds=2))
    other = write(tmp_path / "two", study_of(NAMES, WORTH, [], [Candidate()], folds=3))
    (folder / "journal" / "rank-0001.jsonl").write_bytes((other / "journal" / "rank-0000.jsonl").read_bytes())
    (folder / "journal" / "foreign.jsonl").write_text('{"a": 1}\n')
    page = made(folder)
    assert "rank-0001.jsonl was left out: it belongs to another study" in page.text
    assert "foreign.jsonl was left out: foreign.jsonl is no journal" in page.text and "Chosen: " in page.text


def test_a_sound_journal_is_read_as_the_search_reads_it(search):
    found = salvage(search / "journal")
    assert found == Salvaged(read_study(search / "journal")) and found.study.writers


def test_salvage_keeps_every_sound_line(tmp_path):
    folder = write(tmp_path, study_of(NAMES, WORTH, [FORWARD], folds=2))
    before = read_study(folder / "journal")
    file = folder / "journal" / "rank-0000.jsonl"
    header, *lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([header, b"damage", *(line for one in lines[:-1] for line in (one, b"damage")), b""]))
    assert salvage(folder / "journal").study == before
    # The last line was not ended: it is whole, or it is cut.
    file.write_bytes(b"\n".join([header, b"damage", *lines[:-1]]))
    assert salvage(folder / "journal").study == before
    file.write_bytes(b"\n".join([header, b"damage", *lines[:-1]])[:-5])
    found = salvage(folder / "journal")
    assert found.study.evaluations == before.evaluations[:-1] and found.cut == ("rank-0000.jsonl",)


# --- hostile texts --------------------------------------------------------------------------
def test_no_text_of_a_study_becomes_markup(tmp_path):
    names = [f"{HOSTILE}.{index}" for index in range(3)]
    spec = StudySpec(
        tuple(BlockInfo(name, 10) for name in names), 2, HOSTILE, True,
        fingerprints={HOSTILE: HOSTILE},
        settings={"arguments": {HOSTILE: HOSTILE}, "model": {"class": f"a.{HOSTILE}", "config": {
            "model_type": HOSTILE, "num_labels": HOSTILE, HOSTILE: [HOSTILE]}}, "code": {HOSTILE: HOSTILE},
            "data": {"rows": HOSTILE}, "study_tag": HOSTILE},
        environment={HOSTILE: {HOSTILE: HOSTILE}, "head": HOSTILE},
    )  # fmt: skip
    base = study_of(names, {names[1]: 0.2}, [SearchSpec(max_blocks=1)], folds=2)
    every = tuple(replace(e, metrics={HOSTILE: 0.1, HOSTILE + "2": 0.2}, info={"process": HOSTILE, "started": HOSTILE})
                  for e in base.evaluations)  # fmt: skip
    final = FinalRun(Candidate((names[0],)), 1, {HOSTILE: 1.0}, info={"rows": HOSTILE})
    folder = tmp_path / "<b>out"
    write(folder, replace(base, spec=spec, evaluations=every, finals=(final,)))
    chosen = [names[1]]
    methods = [method(HOSTILE, [], 0.5, against={"method": HOSTILE, "mean": 0.1, "error": 0.1}), method("x", chosen, 1)]
    (folder / "comparison.json").write_text(json.dumps({"methods": methods}))
    page = made(folder, "--title", HOSTILE)
    assert len(page.all("script")) == 1 and not page.all("b")
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("<script>alert(1)</script>") > 20, "and all of them are shown as they are"


def test_texts_that_no_page_can_hold_are_replaced(tmp_path, plain):
    names = ["a\ud800b", "c\x00d\x1b[31m", "e\u202ef"]
    page = made(write(tmp_path, study_of(names, {names[0]: 0.2}, [SearchSpec(max_blocks=1)], folds=2)))
    assert "Chosen: a\ufffdb." in page.text
    assert not re.search("[\x00\x1b\u202e\ud800]", (tmp_path / "page.html").read_text(encoding="utf-8"))


def test_endless_names_do_not_make_endless_pages(tmp_path, plain):
    names = [letter * 20_000 for letter in "abc"]
    folder = write(tmp_path, study_of(names, {names[0]: 0.2}, [SearchSpec(max_blocks=1)], folds=2))
    made(folder)
    assert (folder / "page.html").stat().st_size < 200_000


# --- files ----------------------------------------------------------------------------------
def test_the_page_lies_beside_the_journal_and_is_written_anew(search, plain, capsys):
    target = search / "report.html"
    for given in (search, search / "journal"):
        target.unlink(missing_ok=True)
        assert report.run(options(given)) == 0 and MARK in target.read_text()
        assert str(target) in capsys.readouterr().out
    assert report.run(options(search)) == 0  # its own page is replaced unasked
    assert sorted(path.name for path in search.iterdir() if path.name.startswith((".", "report"))) == ["report.html"]


def test_what_others_wrote_is_kept_unless_told_otherwise(search, tmp_path, plain):
    target = tmp_path / "report.html"
    target.write_text("<p>mine</p>")
    with pytest.raises(ArgumentsError, match="not written by `subtuning report`.*--overwrite"):
        report.run(options(search, "--output", target))
    assert target.read_text() == "<p>mine</p>"
    assert report.run(options(search, "--output", target, "--overwrite")) == 0 and MARK in target.read_text()
    with pytest.raises(ArgumentsError, match="is a folder"):
        report.run(options(search, "--output", tmp_path, "--overwrite"))
    assert report.run(options(search, "--output", tmp_path / "new" / "page.html")) == 0


def test_a_page_that_cannot_be_written_leaves_the_old_one(search, tmp_path, plain, monkeypatch):
    from subtuning_hf.report import page as pages

    target = tmp_path / "report.html"
    report.run(options(search, "--output", target))
    before = target.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pages.os, "replace", fail)
    with pytest.raises(ArgumentsError, match="cannot be written: No space left on device"):
        report.run(options(search, "--output", target))
    assert target.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_is_no_study_is_refused(tmp_path, search, plain):
    with pytest.raises(JournalError, match="is no folder"):
        report.run(options(tmp_path / "nowhere"))
    (tmp_path / "runs.jsonl").write_text('{"key": {}, "run": {}}\n')
    with pytest.raises(JournalError, match=r"are no journal\.$"):
        report.run(options(tmp_path))
    write(tmp_path / "study", study_of(NAMES, WORTH, [FORWARD], folds=2))
    with pytest.raises(JournalError, match="Did you mean '.*study'"):
        report.run(options(tmp_path))
    empty = tmp_path / "empty" / "journal"
    empty.mkdir(parents=True)
    (empty / "rank-0000.jsonl").write_text('{"type":"study","for')
    with pytest.raises(JournalError, match="no journal"):
        report.run(options(empty.parent))
    newer = tmp_path / "newer" / "journal"
    newer.mkdir(parents=True)
    (newer / "rank-0000.jsonl").write_text('{"type":"study","format":99}\n')
    with pytest.raises(JournalVersionError, match="Upgrade"):
        report.run(options(newer.parent))
    assert not list(tmp_path.rglob("*.html"))


def test_without_matplotlib_the_page_has_no_pictures_and_says_so(search, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("subtuning_hf.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    target = tmp_path / "page.html"
    report.run(options(search, "--output", target))
    page = Page(target.read_text(encoding="utf-8"))
    assert not page.all("img") and "Without pictures" in page.text and f"Chosen: {NAMES[3]}" in page.text


def test_a_picture_of_many_parts_is_a_png():
    from matplotlib.figure import Figure

    few, many = (Figure(figsize=(3, 2)) for _ in range(2))
    few.add_subplot().scatter(range(3), range(3))
    many.add_subplot().scatter(range(4000), range(4000), s=[1 + i % 7 for i in range(4000)])
    assert report._embedded(few).startswith("data:image/svg+xml;base64,")
    assert report._embedded(many).startswith("data:image/png;base64,iVBOR")
