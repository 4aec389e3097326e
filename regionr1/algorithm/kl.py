"""How far the policy has moved from its reference: k3 per token, and exactly over the decision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Below this, what is left of 1 after FULL and REGION is rounding, and its logarithm is noise.
_LEAST_REST = 1e-6
_STEEPEST = 10.0


def kl_k3(logp: Tensor, ref_logp: Tensor, old_logp: Tensor | None = None) -> Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref) for each token (B, G, T), never negative.

    exp(d) - d - 1 with d = ref_logp - logp; average it with `aggregate`, as the loss. Its value is
    right in the mean but its gradient is that of KL(pi_ref || pi), weighted; times the ratio
    pi / pi_old the gradient is that of KL(pi || pi_ref) too.

    Beyond d = 10 it goes on as a straight line. A policy's own samples do not get there, but tokens
    that a quota dictated do, where exp(d) would overflow.

    Args:
        logp: (B, G, T) under the policy, with gradient.
        ref_logp: (B, G, T) under the reference.
        old_logp: (B, G, T) under the policy that sampled, which asks for the ratio; pass
            `logp.detach()` when that is this policy. None leaves the ratio out.
    """
    gap = ref_logp.detach() - logp
    steep = gap.clamp(max=_STEEPEST)
    k3 = steep.expm1() - gap + (gap - steep) * math.exp(_STEEPEST)
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
