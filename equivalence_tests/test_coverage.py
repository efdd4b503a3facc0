"""The table of networks that convert never shrinks: what it says is equal is equal now."""

import csv

import pytest

from .coverage import KEPT, families, tried

ROWS = {row["family"]: row for row in csv.DictReader(KEPT.read_text().splitlines())}
SHORT = ("squeezenet", "mobilenetv3", "segmentation.lraspp")
EACH = [pytest.param(family, marks=() if family in SHORT else pytest.mark.long) for family in ROWS]


def test_every_family_of_torchvision_is_in_the_table():
    assert set(families()) <= set(ROWS), "write it again: python -m equivalence_tests.coverage --write"


@pytest.mark.parametrize("family", EACH)
def test_a_network_of_the_table_converts_as_it_says(family):
    result, detail = tried(ROWS[family]["network"])
    if ROWS[family]["result"] == "equal":
        assert result == "equal", detail
    else:
        assert result != "differs", detail
