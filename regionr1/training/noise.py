"""What one training step is sampled with: forced decisions, and noise of its own."""

import hashlib

import torch
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.objective import Decider


def forced_decisions(
    decider: Decider, prior: CropPrior, queries: int, group_size: int
) -> Tensor | None:
    """(B, G) decisions that are forced, the REGIONs first; None where the policy decides.

    Args:
        decider: `exact` forces REGION throughout, `balanced` the prior's share of it.
        prior: Knows that share.
        queries: B.
        group_size: G.
    """
    if decider == "on_policy":
        return None
    regions = group_size if decider == "exact" else prior.region_count(group_size)
    row = [Decision.REGION] * regions + [Decision.FULL] * (group_size - regions)
    return torch.tensor(row).expand(queries, -1)


def step_noise(device: torch.device, *where: int) -> torch.Generator:
    """Randomness that depends on `where` alone: a resumed run draws what it would have.

    Args:
        device: Where it is used.
        where: The seed, and all that tells one draw of a run from another: step, rank and so on.
    """
    digest = hashlib.sha256(repr(where).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
