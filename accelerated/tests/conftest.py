"""Networks, and an interruption, that several files test."""

import contextlib

import pytest

from accelerated.runs import learning

from .whole_numbers import quantised_mixed, whole_mixed


@pytest.fixture
def quantised():
    return quantised_mixed()


@pytest.fixture
def whole():
    return whole_mixed()


@pytest.fixture
def interrupted(monkeypatch):
    """A context manager: inside, Ctrl-C comes while a run tests its network for the n-th time."""

    @contextlib.contextmanager
    def at(count):
        real, calls = learning.tested, []

        def tested(*what):
            calls.append(what)
            if len(calls) == count:
                raise KeyboardInterrupt
            return real(*what)

        with monkeypatch.context() as patch:
            patch.setattr(learning, "tested", tested)
            yield

    return at
