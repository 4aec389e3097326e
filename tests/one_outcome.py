"""What holds of the reading of any answer, in whatever form."""

import math

from regionr1.algorithm.answers import Action, Decision


def check_is_exactly_one_outcome(action: Action) -> None:
    assert (action.box_seen is not None) == (action.decision is Decision.REGION)
    assert bool(action.reason) == (action.decision is Decision.INVALID)
    if action.box_seen is not None:
        x1, y1, x2, y2 = action.box_seen
        assert all(math.isfinite(value) for value in action.box_seen)
        assert x1 < x2 and y1 < y2
