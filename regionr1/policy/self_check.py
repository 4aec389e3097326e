"""Compares a fast log-probability path with the plain one on a real batch."""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from regionr1.errors import UserError
from regionr1.policy.logprobs import LogprobPath, PolicyPass
from regionr1.policy.rollout import Rollouts

# Relative gaps; low precision rounds the two paths' different orders of summation apart.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def check_path(
    score: Callable[[Rollouts, LogprobPath], PolicyPass],
    path: LogprobPath,
    rollouts: Rollouts,
    parameters: Sequence[nn.Parameter],
) -> None:
    """Compares log-probabilities, decision and gradients, and says how near they are.

    Args:
        score: Scores rollouts by a path, in eval mode.
        path: The fast path.
        rollouts: What to score.
        parameters: The policy's; those that train are compared.

    Raises:
        UserError: They are further apart than rounding explains.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    dtype = max((p.dtype for p in parameters), key=lambda kind: TOLERANCE.get(kind, 0.0))
    found = {name: _measure(score(rollouts, name), trained) for name in (path, "dense")}
    gaps = [_gap(*pair) for pair in zip(found[path], found["dense"], strict=True)]
    worst = max(gaps)
    if not worst <= TOLERANCE.get(dtype, 1e-4):
        raise UserError(
            f"self_check: logprob_path={path} differs from dense by {worst:.1e} relative on the "
            "first batch: set logprob_path=dense"
        )
    rank_zero_info(f"self_check: logprob_path={path} equals dense to {worst:.1e} relative")


def _measure(result: PolicyPass, trained: list[nn.Parameter]) -> list[Tensor]:
    with torch.enable_grad():
        weight = torch.linspace(-1, 1, result.logp.numel(), device=result.logp.device)
        goal = (result.logp * weight.view_as(result.logp)).sum()
        goal = goal + result.log_p_full.sum() - result.log_p_region.sum()
    values = [result.logp.detach(), result.log_p_full.detach(), result.log_p_region.detach()]
    return [*values, *torch.autograd.grad(goal, trained)]


def _gap(fast: Tensor, plain: Tensor) -> float:
    # to the tensor's own size: near-zero entries have no precision of their own
    return float((fast - plain).norm() / plain.norm().clamp(min=1e-12))
