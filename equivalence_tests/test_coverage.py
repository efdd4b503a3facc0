"""The table of networks that convert never shrinks: what it says is equal is equal now."""

import pytest

from .coverage import builders, rows, tried

ROWS = rows()
SHORT = {
    "torchvision": ("squeezenet", "segmentation.lraspp", "convnext"),
    "timm": ("resnet", "vision_transformer", "mobilenetv3"),
}
EACH = [pytest.param(*key, marks=() if key[1] in SHORT[key[0]] else pytest.mark.long) for key in ROWS]


def test_every_family_of_torchvision_is_in_the_table():
    missing = {("torchvision", family) for family in builders("torchvision")} - set(ROWS)
    assert not missing, "write them: python -m equivalence_tests.coverage torchvision"


@pytest.mark.parametrize(("library", "least", "share"), [("torchvision", 20, 1.0), ("timm", 98, 0.9)])
def test_what_the_table_says_is_enough(library, least, share):
    """timm is not pinned: families that are new in it may be missing, but those that were tried stay."""
    results = [row["result"] for row in ROWS.values() if row["library"] == library]
    assert len(results) >= least
    assert results.count("equal") >= share * len(results)


@pytest.mark.parametrize(("library", "family"), EACH)
@pytest.mark.timeout(1800)
def test_a_network_of_the_table_converts_as_it_says(library, family):
    row = ROWS[library, family]
    result, detail = tried(library, row["network"])
    if row["result"] == "equal":
        assert result == "equal", detail
    else:
        assert result != "differs", detail
