"""Every public function of the algorithm states the shapes it takes, and is held to them."""

import inspect

import pytest
import torch
from docstring_parser import parse
from shape_contracts import checked, fits, functions, shapes_in

from regionr1.algorithm import advantages, losses, objective, ranking

FUNCTIONS = functions()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_docstring_states_the_shape_of_every_tensor(name: str) -> None:
    function = FUNCTIONS[name]
    described = {p.arg_name: p.description for p in parse(function.__doc__ or "").params}
    for argument, hint in function.__annotations__.items():
        if argument != "return" and "Tensor" in str(hint):
            assert shapes_in(described.get(argument)), f"{name} says no shape of {argument}"


def test_the_suite_runs_on_checked_functions() -> None:
    assert inspect.unwrap(losses.policy_loss) is not losses.policy_loss
    assert objective.policy_loss is losses.policy_loss
    with pytest.raises(TypeError, match=r"rewards is \(4,\), but its docstring says"):
        advantages.group_advantages(torch.zeros(4))


def test_a_letter_is_one_size_throughout_a_call() -> None:
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"mask is \(2, 3, 5\).*'T': 4"):
        losses.aggregate(torch.zeros(2, 3, 4), mask, "grpo", 8)


def test_leading_sizes_broadcast() -> None:
    scores, labels = torch.rand(2, 3, 4), torch.ones(2, 1, 4, dtype=torch.bool)
    assert ranking.mrr(scores, labels, labels).shape == (2, 3)
    with pytest.raises(TypeError, match=r"labels is \(3, 4\)"):
        ranking.mrr(torch.rand(2, 4), torch.ones(3, 4, dtype=torch.bool), torch.ones(4).bool())


def test_a_wrong_result_is_found() -> None:
    def half(x: torch.Tensor) -> torch.Tensor:
        """Half of it.

        Args:
            x: (B, G).

        Returns:
            (B, G).
        """
        return x[0] / 2

    with pytest.raises(TypeError, match=r"the result is \(3,\)"):
        checked(half)(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("(B, G), or (B, G, T) where tokens differ.", [("B", "G"), ("B", "G", "T")]),
        ("One box (4,).", [("4",)]),
        ("Boxes (..., 4) before clamping; NaN (no box) gives NaN.", [("...", "4")]),
        ("A scalar, the deviation.", [()]),
        ("Divide by nothing (Dr. GRPO, arXiv 2503.20783).", []),
        (None, []),
    ],
)
def test_shapes_are_read_from_prose(text, shapes) -> None:
    assert shapes_in(text) == shapes


def test_a_scalar_has_no_sizes() -> None:
    assert fits(torch.tensor(1.0), (), {}) == {}
    assert fits(torch.zeros(1), (), {}) is None
