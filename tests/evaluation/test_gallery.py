"""Pictures: right size, boxes where they belong, odd input drawn rather than refused."""

import math

import pytest
from PIL import Image, ImageColor

from regionr1.evaluation.pictures import (
    POLICY,
    TILE,
    Candidate,
    Case,
    before_after,
    case_picture,
    crop,
    crop_grid,
    fit_text,
    font,
    query_tile,
)

IMAGE = Image.new("RGB", (200, 100), ImageColor.getrgb("steelblue"))


def example(**changes) -> Case:
    values = dict(
        image=IMAGE,
        question="Where does this bird live, and on what does it feed in winter in the north?",
        decision="REGION",
        box_px=[20, 10, 120, 90],
        reference_box_px=[25, 5, 110, 80],
        rank_full=4.0,
        rank_view=1.0,
    )
    return Case(**{**values, **changes})


def test_box_is_drawn_where_it_is() -> None:
    tile = query_tile(IMAGE, [20, 10, 120, 90], None)
    scale, top = TILE / 200, (TILE - TILE / 2) / 2
    assert tile.getpixel((round(20 * scale) + 2, round(top + 50 * scale))) == POLICY
    assert tile.getpixel((round(70 * scale), round(top + 50 * scale))) == IMAGE.getpixel((0, 0))


@pytest.mark.parametrize(
    "box", [[-50, -50, 500, 500], [0, 0, 1, 1], [199, 99, 200, 100], [0.5, 0.5, 0.6, 99.9]]
)
def test_boxes_at_the_edge_are_drawn(box) -> None:
    assert query_tile(IMAGE, box, box).size == (TILE, TILE)
    assert min(crop(IMAGE, box).size) >= 1


def test_grid_has_a_cell_for_each_example() -> None:
    examples = [
        example(),
        example(decision="FULL", box_px=None, rank_view=4.0),
        example(decision="INVALID", box_px=None, rank_view=None),
        example(rank_full=math.inf, rank_view=math.inf),
        example(question="", image=Image.new("L", (3, 700))),
    ]
    assert crop_grid(examples).height > 2 * TILE
    assert crop_grid(examples[:1]).width < 2 * TILE


def test_before_and_after_are_two_rows_of_the_same_queries() -> None:
    before = [example(decision="FULL", box_px=None, rank_view=4.0), example()]
    page, row = before_after(before, [example(), example()]), crop_grid(before, 2)
    assert page.width == row.width and page.height > 2 * row.height
    assert before_after(before[:1], before[:1]).width < page.width


def test_cases() -> None:
    top = [
        Candidate("Northern cardinal", False, IMAGE),
        Candidate("Robin", True),
        Candidate("", False),
    ]
    cases = [
        example(top_full=top, top_view=top[::-1]),
        example(decision="FULL", box_px=None),
        example(decision="INVALID", box_px=None, rank_view=None),
    ]
    one, three = case_picture(cases[:1]), case_picture(cases)
    assert three.width == one.width and three.height > 2 * one.height


@pytest.mark.parametrize("text", ["a " * 200, "x" * 500, "", "one", "ein Käfer, Musée, 鳥"])
def test_text_fits(text) -> None:
    lines = fit_text(text, 120, font(13), lines=2)
    assert len(lines) <= 2 and all(font(13).getlength(line) <= 120 for line in lines)
