"""Answers that do not change: hashes of what a fixed set of networks with exact arithmetic gives."""

import json

from .recorded import KEPT, recorded


def test_every_answer_is_the_recorded_one(seen):
    """On both sides, in two formats, under every schedule and calibration, in totals and increments."""
    before, found = json.loads(KEPT.read_text()), recorded(True, engines=(None, "dense", "event"))
    assert found == before
    seen(f"recorded: {sum(map(len, found.values()))} answers of {len(found)} networks and formats, as they were")
