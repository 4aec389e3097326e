"""The least a step can take on a machine: its arithmetic and its traffic, nothing else.

Counted are the products with weights, 2 FLOP per weight and token, and the reading of the weights
once per pass. Attention itself is left out; it is small while a prompt is short beside the width.
With LoRA the backward pass needs the gradient of activations only, which costs a forward pass.
"""

from typing import NamedTuple

from regionr1.policy.crop_policy import CropPolicy


class Floor(NamedTuple):
    """The arithmetic and traffic of a step that no way of doing it can avoid.

    Attributes:
        flop: Of a step.
        bytes: Of weights read in a step.
    """

    flop: float
    bytes: float

    def seconds(self, flop_per_s: float, bytes_per_s: float) -> float:
        """The seconds that the floor takes on a machine of the given speed."""
        return max(self.flop / flop_per_s, self.bytes / bytes_per_s)


def step_floor(
    policy: CropPolicy,
    queries: int,
    group_size: int,
    prompt: int,
    image_tokens: int,
    completion: int,
    choices: int,
    repeated: bool,
    kl: bool,
) -> Floor:
    """Computes the floor of one training step.

    Args:
        policy: Whose weights count.
        queries: B.
        group_size: G.
        prompt: Tokens of a prompt, P.
        image_tokens: Of these, image tokens; the tower sees each as merge x merge patches.
        completion: Tokens of a completion, T.
        choices: Sampling steps of a completion: passes of the decoder.
        repeated: Prompt and image G times in every pass, and the tower in every pass.
        kl: There is a reference pass.
    """
    base = policy.base
    language = sum(p.numel() for p in base.model.language_model.layers.parameters())
    head = base.lm_head.weight.numel()
    tower = sum(p.numel() for p in base.model.visual.parameters())
    patches = image_tokens * base.model.visual.spatial_merge_size**2
    rows = queries * group_size
    prompts = rows if repeated else queries
    scored = rows * completion + prompts * prompt
    # The prefill of ours is also the loss pass's; a backward costs as much as its forward.
    forward = prompts * prompt + rows * completion + (1 + kl) * scored + scored
    if not repeated:
        forward -= prompts * prompt
    vision_passes = 2 + kl if repeated else 1
    flop = 2 * (language * forward + head * rows * completion * (3 + kl))
    flop += 2 * tower * patches * prompts * vision_passes
    weights = (language + head) * base.lm_head.weight.element_size()
    passes = 1 + choices + 2 + kl
    return Floor(float(flop), float(weights * passes))
