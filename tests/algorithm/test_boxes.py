"""Boxes: round trips in every frame, cuts that stay inside, and the priors on a crop."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from regionr1.algorithm.boxes import (
    CoordFrame,
    CropPrior,
    area,
    aspect,
    clamp_unit,
    crop_px,
    iou,
    px_to_unit,
    unit_to_px,
)
from regionr1.errors import UserError

FRAMES = st.sampled_from([CoordFrame("absolute_seen"), CoordFrame("relative_1000")])
SIDES = st.integers(1, 4000)
INSIDE = st.floats(0, 1, width=32)
ANYWHERE = st.floats(-1e6, 1e6, width=32)


@st.composite
def unit_boxes(draw):
    x1, x2 = sorted([draw(INSIDE), draw(INSIDE)])
    y1, y2 = sorted([draw(INSIDE), draw(INSIDE)])
    return torch.tensor([x1, y1, x2, y2])


def extent(frame, height, width):
    if frame.kind == "relative_1000":
        return torch.tensor([1000.0] * 4)
    return torch.tensor([width, height, width, height], dtype=torch.float)


@given(FRAMES, SIDES, SIDES, st.data())
def test_seen_to_unit_is_a_share_of_the_sides(frame, height, width, data):
    x_max, y_max = extent(frame, height, width)[:2].int().tolist()
    x1, y1 = data.draw(st.integers(0, x_max - 1)), data.draw(st.integers(0, y_max - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, x_max)), data.draw(st.integers(y1 + 1, y_max))
    unit = frame.to_unit((x1, y1, x2, y2), (height, width))
    assert (unit * extent(frame, height, width)).round().tolist() == [x1, y1, x2, y2]


def test_a_box_predicted_in_the_seen_frame_is_cut_from_the_original_at_its_own_scale():
    # 3000 x 1500 photo which the processor shrank to 560 x 280: the lower right quarter.
    box_unit = CoordFrame("absolute_seen").to_unit((280, 140, 560, 280), (280, 560))
    assert crop_px(box_unit, 3000, 1500) == (1500, 750, 3000, 1500)
    assert crop_px(
        CoordFrame("relative_1000").to_unit((500, 500, 1000, 1000), (280, 560)), 3000, 1500
    ) == (
        1500,
        750,
        3000,
        1500,
    )


def test_sizes_belong_to_queries_even_when_there_are_as_many_rollouts():
    boxes = torch.tensor([10.0, 10.0, 20.0, 20.0]).expand(2, 2, 4)
    unit = CoordFrame().to_unit(boxes, torch.tensor([[100, 100], [20, 20]]))
    assert unit[0].allclose(torch.tensor([0.1, 0.1, 0.2, 0.2]))
    assert unit[1].allclose(torch.tensor([0.5, 0.5, 1.0, 1.0]))
    with pytest.raises(RuntimeError):
        CoordFrame().to_unit(boxes, torch.ones(3, 2))


@given(unit_boxes(), SIDES, SIDES)
def test_unit_to_px_and_back(box_unit, height, width):
    assert px_to_unit(unit_to_px(box_unit, width, height), width, height).allclose(box_unit)


@given(st.lists(ANYWHERE, min_size=4, max_size=4), SIDES, SIDES)
def test_any_cut_is_inside_the_image_and_holds_a_pixel(box, height, width):
    left, top, right, bottom = crop_px(box, width, height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


@given(SIDES, SIDES, st.data())
def test_a_cut_of_whole_pixels_is_those_pixels(height, width, data):
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    assert crop_px(px_to_unit((x1, y1, x2, y2), width, height), width, height) == (x1, y1, x2, y2)


def test_float_noise_adds_no_pixel_to_a_cut():
    assert (torch.tensor(7.0) / 13 * 13).item() > 7
    assert crop_px(px_to_unit((0, 0, 7, 7), 13, 13), 13, 13) == (0, 0, 7, 7)


@given(unit_boxes(), SIDES, SIDES)
def test_a_cut_holds_its_box(box_unit, height, width):
    x1, y1, x2, y2 = unit_to_px(box_unit, width, height).tolist()
    left, top, right, bottom = crop_px(box_unit, width, height)
    assert left <= x1 + 0.02 and top <= y1 + 0.02 and right >= x2 - 0.02 and bottom >= y2 - 0.02


@given(st.lists(ANYWHERE, min_size=4, max_size=4))
def test_clamping_lands_inside_and_changes_nothing_there(box):
    clamped = clamp_unit(torch.tensor(box))
    assert ((clamped >= 0) & (clamped <= 1)).all()
    assert clamp_unit(clamped).equal(clamped)


def test_a_missing_box_is_refused_where_it_is_cut():
    missing = torch.full((4,), math.nan)
    with pytest.raises(ValueError):
        crop_px(missing, 8, 8)


def test_iou_by_hand_and_broadcast():
    a = torch.tensor([0.0, 0.0, 0.5, 1.0])
    others = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 1.0], [0.5, 0.0, 1.0, 1.0]])
    assert iou(a, others).allclose(torch.tensor([1.0, 1 / 3, 0.0]))
    assert iou(torch.zeros(4), torch.zeros(4)) == 0
    assert iou(a, torch.full((4,), math.nan)).isnan()


@given(unit_boxes(), unit_boxes())
def test_iou_is_symmetric_and_a_share(a, b):
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1 + 1e-6


def test_area_and_aspect():
    assert area(torch.tensor([0.5, 0.0, 0.0, 1.0])) == 0
    wide = torch.tensor([0.0, 0.0, 0.8, 0.4])
    assert area(wide) == pytest.approx(0.32)
    assert aspect(wide) == pytest.approx(2)
    assert aspect(wide, (200, 100)) == pytest.approx(1)  # as tall as wide in a tall image


def test_penalty_is_0_for_a_sound_box_1_for_none_and_graded_between():
    prior = CropPrior(min_area=0.04, max_aspect=4.0)
    boxes = torch.tensor(
        [
            [0.1, 0.1, 0.6, 0.6],  # sound
            [2.0, 2.0, 3.0, 3.0],  # outside
            [0.5, 0.5, 0.5, 0.5],  # a point
            [0.0, 0.0, 0.1, 0.1],  # a quarter of the least area
            [0.0, 0.0, 0.8, 0.1],  # twice the longest aspect
            [math.nan] * 4,
        ]
    )
    expected = torch.tensor([0.0, 1.0, 1.0, 0.75, 0.5, math.nan])
    assert prior.penalty(boxes).allclose(expected, equal_nan=True)


@given(st.lists(ANYWHERE, min_size=4, max_size=4), SIDES, SIDES)
@example([0.5, 0.5, 0.50001, 0.50001], 1, 1)
def test_penalty_is_a_share_and_1_only_without_area(box, height, width):
    penalty = CropPrior().penalty(torch.tensor(box), (height, width))
    x1, y1, x2, y2 = clamp_unit(torch.tensor(box)).tolist()
    assert 0 <= penalty <= 1 and (penalty == 1) == (x2 <= x1 or y2 <= y1)


def test_penalty_sees_each_querys_image():
    boxes = torch.tensor([0.0, 0.0, 0.9, 0.1]).expand(2, 3, 4)
    penalty = CropPrior(max_aspect=8).penalty(boxes, torch.tensor([[100, 100], [900, 100]]))
    assert (penalty[0] > 0.1).all() and (penalty[1] == 0).all()


def test_padding_grows_a_box_and_stays_inside():
    box = torch.tensor([0.4, 0.0, 0.6, 0.5])
    assert CropPrior(padding=0.5).pad(box).allclose(torch.tensor([0.3, 0.0, 0.7, 0.75]))
    assert CropPrior().pad(box).equal(box)


@given(st.floats(0.01, 0.99), st.integers(2, 64))
def test_a_balanced_group_always_holds_both_decisions(share, group_size):
    assert 1 <= CropPrior(region_share=share).region_count(group_size) <= group_size - 1


def test_region_count_and_the_group_that_cannot_be_balanced():
    assert CropPrior().region_count(8) == 4
    assert CropPrior(region_share=0.75).region_count(4) == 3
    with pytest.raises(UserError, match="group_size"):
        CropPrior().region_count(1)


def test_encouragement_falls_linearly_to_nothing():
    prior = CropPrior(encouragement=0.2, encouragement_steps=10)
    assert [prior.bonus(step) for step in (0, 5, 10, 99)] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert CropPrior().bonus(0) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"region_share": 1.0},
        {"min_area": -0.1},
        {"max_aspect": math.inf},
        {"padding": math.nan},
        {"encouragement": 0.1},
    ],
)
def test_a_senseless_prior_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        CropPrior(**wrong)


def test_an_unknown_frame_is_refused():
    with pytest.raises(UserError, match="absolute_seen"):
        CoordFrame("percent")
