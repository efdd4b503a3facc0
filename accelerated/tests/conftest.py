"""Networks that several files test."""

import pytest

from .whole_numbers import quantised_mixed, whole_mixed


@pytest.fixture
def quantised():
    return quantised_mixed()


@pytest.fixture
def whole():
    return whole_mixed()
