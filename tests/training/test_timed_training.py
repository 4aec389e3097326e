"""What the training scripts of the built-in policy share."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric

from regionr1.builtin.timed_training import covered, train_for


def test_centres_in_a_box() -> None:
    x, y = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1.0, 3.0])
    boxes = torch.tensor([[2.0, 0.0, 6.0, 2.0], [0.0, 0.0, 1.0, 9.0], [torch.nan] * 4])
    assert covered(boxes, x, y).tolist() == [
        [False, True, True, False, False, False],  # first row, but for its first column
        [False] * 6,  # a centre on the edge is outside
        [False] * 6,
    ]


@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_centres_against_a_plain_loop(box: list[float]) -> None:
    x, y = (torch.arange(5) + 0.5) / 5, (torch.arange(3) + 0.5) / 3
    left, top, right, bottom = torch.tensor(box)
    plain = [bool(left < a < right and top < b < bottom) for b in y for a in x]
    assert covered(torch.tensor(box), x, y).tolist() == plain


def test_trains_until_the_time_is_up() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    learner = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(learner.parameters(), 0.1)
    learner, optimizer = fabric.setup(learner, optimizer)
    seen, told, rates = [], [], []

    def losses() -> dict[str, torch.Tensor]:
        rates.append(optimizer.param_groups[0]["lr"])
        found = {"error": (learner(torch.ones(1, 1)) - 3).square().mean(), "none": torch.zeros(())}
        seen.append(found["error"].item())
        return found

    steps = train_for(
        fabric, learner, optimizer, 0.1, 0.01, losses, lambda *said: told.append(said), 0.004, "x"
    )
    assert steps == len(seen) and seen[-1] < 0.1 * seen[0]
    assert max(rates) <= 0.1 * 1.005 and rates[-1] < 0.5 * max(rates)
    assert 1 <= len(told) <= 3 and told[0][0] <= steps
    assert told[0][1].startswith("error ") and told[0][1].endswith("none 0.000")
