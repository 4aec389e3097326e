"""How far the policy has moved from its reference: k3 per token, and exactly over the decision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Below this, what is left of 1 after FULL and REGION is rounding, and its logarithm is noise.
_LEAST_REST = 1e-6
_STEEPEST = 10.0
_HIGHEST = 80.0  # exp of more overflows float32


def kl_k3(logp: Tensor, ref_logp: Tensor, old_logp: Tensor | None = None) -> Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref) for each token (...,), never negative.

    k3 is exp(d) - d - 1 with d = ref_logp - logp; average it with `aggregate`, as the loss. Its
    value is right in the mean but its gradient, 1 - exp(d), is that of KL(pi_ref || pi), weighted;
    times the ratio pi / pi_old the gradient is that of KL(pi || pi_ref) too.

    A policy's own samples have a small d, but tokens that a quota chose may have any. Without the
    ratio, k3 goes on as a straight line beyond d = 10, so that its gradient stays bounded. With the
    ratio the gradient is -d times the ratio, which needs no bound.

    Args:
        logp: (B, G, T), or any (...,), under the policy, with gradient.
        ref_logp: (B, G, T), or any (...,), under the reference.
        old_logp: (B, G, T), or any (...,), under the policy that sampled, which asks for the ratio;
            pass `logp.detach()` when that is this policy. None leaves the ratio out.
    """
    gap = ref_logp.detach() - logp
    if old_logp is None:
        steep = gap.clamp(max=_STEEPEST)
        return steep.expm1() - gap + (gap - steep) * math.exp(_STEEPEST)
    # The product rule gives ratio (k3 + 1 - exp(d)), whose large terms cancel to -d: written down
    # as that, because floating point would lose it and a bounded k3 would turn its sign.
    slope = (logp - old_logp).exp().detach() * -gap.detach()
    return k3_value(logp, ref_logp, old_logp) + slope * (logp - logp.detach())


@torch.no_grad()
def k3_value(logp: Tensor, ref_logp: Tensor, old_logp: Tensor | None = None) -> Tensor:
    """The plain value of k3 (...,), without gradient: what TRL averages into its metric `kl`.

    Args:
        logp: (B, G, T), or any (...,).
        ref_logp: (B, G, T), or any (...,).
        old_logp: (B, G, T), or any (...,); see `kl_k3`.
    """
    gap = ref_logp - logp
    k3 = gap.clamp(max=_HIGHEST).expm1() - gap
    return k3 if old_logp is None else (logp - old_logp).exp() * k3


def decision_kl(
    log_p_full: Tensor, log_p_region: Tensor, ref_log_p_full: Tensor, ref_log_p_region: Tensor
) -> Tensor:
    """KL(pi || pi_ref) of the decision among FULL, REGION and anything else, exactly: (B,).

    Args:
        log_p_full: (B,) log pi(FULL), with gradient.
        log_p_region: (B,) log pi(REGION), with gradient.
        ref_log_p_full: (B,) under the reference.
        ref_log_p_region: (B,) under the reference.
    """
    logs = torch.stack([log_p_full, log_p_region, _log_rest(log_p_full, log_p_region)])
    reference = torch.stack(
        [ref_log_p_full, ref_log_p_region, _log_rest(ref_log_p_full, ref_log_p_region)]
    )
    return (logs.exp() * (logs - reference.detach())).sum(0)


def _log_rest(log_p_full: Tensor, log_p_region: Tensor) -> Tensor:
    return (1 - log_p_full.exp() - log_p_region.exp()).clamp(min=_LEAST_REST).log()
