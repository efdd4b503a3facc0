"""The table of networks that convert never shrinks: what it says is equal is equal now."""

import pytest

from .coverage import builders, rows, tried

ROWS = rows()
SHORT = {"torchvision": ("squeezenet", "mobilenetv3", "segmentation.lraspp", "convnext"), "timm": ()}
EACH = [pytest.param(*key, marks=() if key[1] in SHORT[key[0]] else pytest.mark.long) for key in ROWS]


@pytest.mark.parametrize("library", ["torchvision"])
def test_every_family_is_in_the_table(library):
    missing = {(library, family) for family in builders(library)} - set(ROWS)
    assert not missing, f"write them: python -m equivalence_tests.coverage {library}"


@pytest.mark.parametrize(("library", "family"), EACH)
@pytest.mark.timeout(1800)
def test_a_network_of_the_table_converts_as_it_says(library, family):
    row = ROWS[library, family]
    result, detail = tried(library, row["network"])
    if row["result"] == "equal":
        assert result == "equal", detail
    else:
        assert result != "differs", detail
