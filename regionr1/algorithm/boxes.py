"""Boxes in three frames, the priors on a crop, and the one place where coordinates are rounded.

Every box is xyxy and its name carries its frame: `box_unit` (0..1 of the image's width and height;
what the program passes around), `box_seen` (the numbers the model reads and writes) and `box_px`
(pixels of the original image). A box is predicted in the seen frame and cut from the original, so
it must travel through `box_unit`: cutting the original with `box_seen` is right only when the
processor did not resize.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from regionr1.errors import UserError

Size = Sequence[int] | Tensor
"""One (height, width), or one per query: (B, 2) for boxes (B, 4) or (B, G, 4)."""

_TINY = 1e-12
_ALMOST = 1 - 2**-24  # the largest float32 below 1
_SLACK_PX = 1e-2  # an edge this near a pixel border lies on it: float32 is no finer on wide images


def _as_boxes(box: Tensor | Sequence[float]) -> Tensor:
    box = torch.as_tensor(box)
    return box if box.is_floating_point() else box.float()


def _extent(hw: Size, like: Tensor) -> Tensor:
    """(height, width) as the (..., 4) factors of x1, y1, x2, y2."""
    wh = torch.as_tensor(hw, dtype=like.dtype, device=like.device).flip(-1)
    while 1 < wh.ndim < like.ndim:  # align queries with queries, not with rollouts
        wh = wh.unsqueeze(-2)
    return torch.cat([wh, wh], dim=-1)


@dataclass(frozen=True)
class CoordFrame:
    """How one family of VLMs writes coordinates.

    Attributes:
        kind: `absolute_seen` for pixels of the image after the processor resized it (Qwen2.5-VL),
            or `relative_1000` for thousandths of each side (the other families).
    """

    kind: Literal["absolute_seen", "relative_1000"] = "absolute_seen"

    def __post_init__(self) -> None:
        if self.kind not in ("absolute_seen", "relative_1000"):
            raise UserError(
                f"Unknown coordinate frame {self.kind!r}: use 'absolute_seen' or 'relative_1000'."
            )

    def sides(self, seen_hw: Tensor) -> Tensor:
        """(..., 2) largest y and x that the model may write for images it saw at `seen_hw`."""
        return seen_hw if self.kind == "absolute_seen" else torch.full_like(seen_hw, 1000)

    def _extent(self, seen_hw: Size, like: Tensor) -> Tensor:
        return _extent(seen_hw if self.kind == "absolute_seen" else (1000, 1000), like)

    def to_unit(self, box_seen: Tensor | Sequence[float], seen_hw: Size) -> Tensor:
        """Boxes the model wrote (..., 4) -> unit boxes (..., 4), not clamped.

        Args:
            box_seen: Boxes as the model wrote them; they may exceed the image.
            seen_hw: (height, width) of the image the model saw, as the processor reports it.
        """
        box_seen = _as_boxes(box_seen)
        return box_seen / self._extent(seen_hw, box_seen)


def unit_to_px(box_unit: Tensor | Sequence[float], width: int, height: int) -> Tensor:
    """Unit boxes (..., 4) -> float pixels of an image of that size (..., 4).

    Args:
        box_unit: (..., 4).
        width: Width of the image, pixels.
        height: Its height, pixels.
    """
    box_unit = _as_boxes(box_unit)
    return box_unit * _extent((height, width), box_unit)


def px_to_unit(box_px: Tensor | Sequence[float], width: int, height: int) -> Tensor:
    """Pixels (..., 4) of an image of that size -> unit boxes (..., 4).

    Args:
        box_px: (..., 4).
        width: Width of the image, pixels.
        height: Its height, pixels.
    """
    box_px = _as_boxes(box_px)
    return box_px / _extent((height, width), box_px)


def clamp_unit(box_unit: Tensor) -> Tensor:
    """The part of each box inside the image (..., 4); a box wholly outside keeps no area.

    Args:
        box_unit: (..., 4).
    """
    return box_unit.clamp(0.0, 1.0)


def crop_px(
    box_unit: Tensor | Sequence[float], width: int, height: int
) -> tuple[int, int, int, int]:
    """The whole pixels of the original image to cut for one box.

    Rounds outward, so the cut holds all of the box; always inside the image and at least 1 px a
    side.

    Args:
        box_unit: One box (4,).
        width: Width of the original image, pixels.
        height: Its height, pixels.

    Returns:
        (left, top, right, bottom), as `PIL.Image.crop` takes them.

    Raises:
        ValueError: a coordinate is NaN.
    """
    x1, y1, x2, y2 = unit_to_px(clamp_unit(_as_boxes(box_unit)), width, height).tolist()
    left = min(math.floor(x1 + _SLACK_PX), width - 1)
    top = min(math.floor(y1 + _SLACK_PX), height - 1)
    right = min(max(math.ceil(x2 - _SLACK_PX), left + 1), width)
    bottom = min(max(math.ceil(y2 - _SLACK_PX), top + 1), height)
    return left, top, right, bottom


def area(box: Tensor) -> Tensor:
    """Area (...,) of boxes (..., 4) in the square of their unit; 0 for a box turned inside out.

    Args:
        box: (..., 4).
    """
    return (box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (...,) of boxes of one frame, broadcast; NaN where a box is NaN.

    Args:
        a: (..., 4).
        b: (..., 4).
    """
    overlap = torch.cat(
        [torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1
    )
    shared = area(overlap)
    return shared / (area(a) + area(b) - shared).clamp(min=_TINY)


def aspect(box_unit: Tensor, image_hw: Size = (1, 1)) -> Tensor:
    """Longer side over shorter (...,), at least 1, as seen in an image of that shape.

    Args:
        box_unit: (..., 4).
        image_hw: Height and width of the image, or of each query's; only the quotient matters.
    """
    sides = (box_unit[..., 2:] - box_unit[..., :2]).clamp(min=0)
    sides = (sides * _extent(image_hw, sides)[..., :2]).clamp(min=_TINY)
    return sides.amax(dim=-1) / sides.amin(dim=-1)


@dataclass(frozen=True)
class CropPrior:
    """What we believe of a good crop before any reward is seen.

    Attributes:
        region_share: Share of REGION in a decision-balanced group.
        min_area: Smallest sound crop, as a share of the image.
        max_aspect: Longest sound crop, longer side over shorter.
        padding: Share of the box's side added on each of its four sides before cutting.
        encouragement: Reward added to every REGION at step 0.
        encouragement_steps: Steps over which the encouragement falls linearly to 0.
    """

    region_share: float = 0.5
    min_area: float = 0.01
    max_aspect: float = 8.0
    padding: float = 0.0
    encouragement: float = 0.0
    encouragement_steps: int = 0

    def __post_init__(self) -> None:
        sound = {
            "region_share must be between 0 and 1": 0 < self.region_share < 1,
            "min_area must be at least 0 and below 1": 0 <= self.min_area < 1,
            "max_aspect must be at least 1 and finite": 1 <= self.max_aspect < math.inf,
            "padding must be at least 0 and finite": 0 <= self.padding < math.inf,
            "encouragement must be at least 0 and finite": 0 <= self.encouragement < math.inf,
            "encouragement needs encouragement_steps of at least 1": self.encouragement == 0
            or self.encouragement_steps >= 1,
        }
        for rule, holds in sound.items():
            if not holds:
                raise UserError(f"Crop prior: {rule}, got {self}.")

    def region_count(self, group_size: int) -> int:
        """How many of a group's rollouts are REGION: the share, but never none and never all.

        Raises:
            UserError: a group of fewer than 2 cannot hold both decisions.
        """
        if group_size < 2:
            raise UserError(
                f"A group of {group_size} cannot hold both decisions: set group_size to 2 or more."
            )
        return min(max(math.floor(self.region_share * group_size + 0.5), 1), group_size - 1)

    def bonus(self, step: int) -> float:
        """The encouragement left at this optimizer step."""
        if self.encouragement == 0:
            return 0.0
        return self.encouragement * max(0.0, 1.0 - step / self.encouragement_steps)

    def penalty(self, box_unit: Tensor, image_hw: Size = (1, 1)) -> Tensor:
        """eta(b) of our own reward, 0..1 (...,): 0 for a sound box, 1 for those without area alone.

        The area is that inside the image. The paper's eta(b) (Eq. 5) is for boxes without area
        only; here, between the two, it grows with how far the box falls short of `min_area` or
        exceeds `max_aspect`, whichever is worse, so that a group of bad boxes still tells better
        from worse.

        Args:
            box_unit: Boxes (..., 4) before clamping and padding; NaN (no box) gives NaN.
            image_hw: Size of the image, for the aspect ratio; only the quotient matters.
        """
        inside = clamp_unit(box_unit)
        small = 1 - area(inside) / max(self.min_area, _TINY)
        narrow = 1 - self.max_aspect / aspect(inside, image_hw)
        eta = torch.maximum(small, narrow).clamp(min=0)
        # Rounded up to 1, a box of hardly any area would be taken for one that has none.
        has_area = (inside[..., 2:] > inside[..., :2]).all(-1)
        return eta.masked_fill((eta >= 1) & has_area, _ALMOST)

    def pad(self, box_unit: Tensor) -> Tensor:
        """Boxes (..., 4) with the padding around them, inside the image."""
        margin = self.padding * (box_unit[..., 2:] - box_unit[..., :2])
        return clamp_unit(box_unit + torch.cat([-margin, margin], dim=-1))
