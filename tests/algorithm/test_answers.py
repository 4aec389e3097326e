"""Answers: any string is exactly one of FULL, REGION, INVALID."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_outcome import check_is_exactly_one_outcome

from regionr1.algorithm.answers import (
    FULL_ANSWER,
    REGION_PREFIX,
    REGION_SUFFIX,
    Action,
    Decision,
    format_region,
    parse_answer,
)

FULL = Action(Decision.FULL)
TOOL_CALL = (
    '<tool_call>\n{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[10,20,300,400],'
    '"label":"tower"}}\n</tool_call>'
)
PIECES = st.sampled_from(
    [
        FULL_ANSWER,
        REGION_PREFIX,
        REGION_SUFFIX,
        '"bbox_2d"',
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        " ",
        "\n",
    ]
    + ["<think>", "</think>", "<tool_call>", "1", "-2", "3.5", "1e999", "9" * 5000, "NaN", "٣"]
)


def region(*box):
    return Action(Decision.REGION, tuple(float(value) for value in box))


@given(st.text())
def test_any_string_is_exactly_one_outcome(text):
    check_is_exactly_one_outcome(parse_answer(text))


@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_mix_of_the_grammars_own_pieces_is_exactly_one_outcome(text):
    check_is_exactly_one_outcome(parse_answer(text))


@given(st.text().filter(lambda text: FULL_ANSWER not in text and "bbox_2d" not in text))
def test_garbage_is_never_full(text):
    assert parse_answer(text).decision is Decision.INVALID


@given(st.lists(st.integers(-9999, 9999), min_size=4, max_size=4))
def test_a_formatted_region_is_read_back(box):
    x1, y1, x2, y2 = box
    action = parse_answer(format_region(box))
    assert action == region(*box) if x1 < x2 and y1 < y2 else action.reason == "the box has no area"


@pytest.mark.parametrize(
    "text, action",
    [
        (FULL_ANSWER, FULL),
        (f"  {FULL_ANSWER}.\n", FULL),
        ('{"bbox_2d": [1, 2, 30, 40]}', region(1, 2, 30, 40)),
        ('{ "bbox_2d" :[1.5,-2,3e1 , 40] }', region(1.5, -2, 30, 40)),
        (TOOL_CALL, region(10, 20, 300, 400)),
        (f"The tower is far away. {TOOL_CALL}", region(10, 20, 300, 400)),
        (f'<think>perhaps {{"bbox_2d": [1, 2, 3, 4]}}</think>{FULL_ANSWER}', FULL),
        (
            f"<think>{FULL_ANSWER}?</think>no</think>" + format_region([1, 2, 3, 4]),
            region(1, 2, 3, 4),
        ),
    ],
)
def test_what_is_accepted(text, action):
    assert parse_answer(text) == action


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "neither"),
        ("a bird", "neither"),
        ("no_crop_needed", "neither"),
        (f"<think>{FULL_ANSWER}", "never ends"),
        (f"{FULL_ANSWER} {TOOL_CALL}", "both"),
        (f'{FULL_ANSWER} {{"bbox_2d": [1,', "both"),
        (TOOL_CALL + TOOL_CALL, "more than one"),
        ('{"bbox_2d": [1, 2, 30', "complete"),
        ('{"bbox_2d": [1, 2, 30, 40]', "complete"),
        ('{"bbox_2d": [[1, 2, 30, 40]]}', "complete"),
        ('{"bbox_2d": null}', "complete"),
        ('{"bbox_2d": []}', "four"),
        ('{"bbox_2d": [1, 2, 3]}', "four"),
        ('{"bbox_2d": [1, 2, 3, 4, 5]}', "four"),
        ('{"bbox_2d": [1, 2, 3, "4"]}', "four"),
        ('{"bbox_2d": [1, 2, 3, NaN]}', "four"),
        ('{"bbox_2d": [1, 2, 3, Infinity]}', "four"),
        ('{"bbox_2d": [1, 2, 3, ٤]}', "four"),
        ('{"bbox_2d": [1, 2, 3, 1e999]}', "beyond"),
        ('{"bbox_2d": [1, 2, 3, ' + "9" * 5000 + "]}", "beyond"),
        ('{"bbox_2d": [5, 2, 5, 9]}', "no area"),
        ('{"bbox_2d": [9, 2, 5, 9]}', "no area"),
    ],
)
def test_what_is_invalid_and_why(text, reason):
    action = parse_answer(text)
    assert action.decision is Decision.INVALID
    assert reason in action.reason


def test_a_very_long_answer_is_read_in_linear_time():
    assert parse_answer('"bbox_2d"' + " " * 200_000).decision is Decision.INVALID
    assert parse_answer('{"bbox_2d": [' + "[" * 200_000).decision is Decision.INVALID
