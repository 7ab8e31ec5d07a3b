"""The table of what is supported: every row names a test that exists, or says that it was not tried."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "support.md"
LINES = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
ROWS = [line for line in LINES if not line.startswith(("|---", "| feat"))]


def test_there_are_rows():
    assert len(ROWS) > 40 and all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_row_is_backed(row):
    named = re.findall(r"`([\w/]+\.py)::(test_\w*)`", row)
    assert named or "not tried" in row
    for file, test in named:
        path = TESTS.parent / file if file.startswith("tests/") else TESTS / "support" / file
        assert re.search(rf"^def {test}\w*\(", path.read_text(), re.MULTILINE), f"{file} has no {test}"
