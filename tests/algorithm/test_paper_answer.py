"""The paper's answer form: any string is exactly one of FULL, REGION, INVALID."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_outcome import check_is_exactly_one_outcome

from regionr1.algorithm.answers import Action, Decision
from regionr1.algorithm.paper_answer import CLOSE, OPEN, PAPER, TOOL

FULL = Action(Decision.FULL)
CALL = {"name": TOOL, "arguments": {"bbox_2d": [10, 20, 300.5, 400], "label": "tower"}}
BOX = Action(Decision.REGION, (10.0, 20.0, 300.5, 400.0))
REGION = '{"Decision": "REGION", "Tool": %s}'
PIECES = st.sampled_from(
    [PAPER.full, PAPER.region_prefix, PAPER.region_suffix, OPEN, CLOSE, TOOL, json.dumps(CALL)]
    + ['"Decision"', '"REGION"', '"FULL"', '"Tool"', '"bbox_2d"', '"label"', "the tool call stands"]
    + list('[]{}:," \n\\') + ["<think>", "</think>", "1", "-2.5", "1e999", "NaN", "9" * 5000]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["REGION", TOOL, ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Decision", "Tool", "name", "arguments", "bbox_2d", "label"]), inner
        )
    ),
)


def tagged(call: object) -> str:
    return f"{OPEN}{json.dumps(call)}{CLOSE}"


def called(**changes: object) -> str:
    return REGION % tagged({**CALL, "arguments": {**CALL["arguments"], **changes}})


@given(st.text())
def test_any_string_is_exactly_one_outcome(text) -> None:
    check_is_exactly_one_outcome(PAPER.parse(text))


@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_mix_of_the_forms_own_pieces_is_exactly_one_outcome(text) -> None:
    check_is_exactly_one_outcome(PAPER.parse(text))


@given(JSON)
def test_any_json_is_exactly_one_outcome(value) -> None:
    for text in (json.dumps(value), REGION % json.dumps(value), REGION % tagged(value)):
        check_is_exactly_one_outcome(PAPER.parse(text))


@given(st.text().filter(lambda text: "FULL" not in text and "REGION" not in text))
def test_garbage_is_never_a_decision(text) -> None:
    assert PAPER.parse(text).decision is Decision.INVALID


@given(st.lists(st.integers(-9999, 9999), min_size=4, max_size=4))
def test_a_written_region_is_read_back(box) -> None:
    x1, y1, x2, y2 = box
    action = PAPER.parse(PAPER.region(box))
    if x1 < x2 and y1 < y2:
        assert action == Action(Decision.REGION, (x1, y1, x2, y2))
    else:
        assert action.reason == "the box has no area"


@given(st.text().filter(lambda text: "<" not in text), st.booleans())
def test_any_label_without_tags_is_read(label, spaced) -> None:
    call = {**CALL, "arguments": {**CALL["arguments"], "label": label}}
    inner = json.dumps(call, indent=2 if spaced else None)
    assert PAPER.parse(REGION % f"{OPEN}\n{inner}\n{CLOSE}") == BOX
    assert PAPER.parse(REGION % json.dumps(f"{OPEN}{inner}{CLOSE}")) == BOX


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (PAPER.full, FULL),
        ('\n{ "Decision" :"FULL" }\n', FULL),
        (f"<think>{REGION}?</think>{PAPER.full}", FULL),
        (REGION % tagged(CALL), BOX),
        ('{"Tool":' + tagged(CALL) + ',"Decision":"REGION"}', BOX),
        (REGION % json.dumps(tagged(CALL)), BOX),
    ],
)
def test_what_is_accepted(text, action) -> None:
    assert PAPER.parse(text) == action


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not one JSON object"),
        ("NO_CROP_NEEDED", "not one JSON object"),
        ('{"bbox_2d": [1, 2, 3, 4]}', "neither FULL nor REGION"),
        (f"I keep it. {PAPER.full}", "not one JSON object"),
        (PAPER.full * 2, "not one JSON object"),
        (f"[{PAPER.full}]", "not one JSON object"),
        ('{"Decision": "FULL", "Decision": "FULL"}', "not one JSON object"),
        ('{"Decision": "full"}', "neither FULL nor REGION"),
        ('{"Decision": ["FULL"]}', "neither FULL nor REGION"),
        (f"<think>{PAPER.full}", "never ends"),
        ('{"Decision": "FULL", "Tool": null}', "more than Decision"),
        ((REGION % tagged(CALL)).replace("REGION", "FULL"), "more than Decision"),
        ('{"Decision": "REGION"}', "Decision and Tool alone"),
        (REGION % "null", "Decision and Tool alone"),
        (REGION % json.dumps(CALL), "Decision and Tool alone"),
        (REGION % '"zoom"', "no tool call"),
        (REGION % '"the tool call stands here"', "no tool call"),
        (REGION % f"{OPEN}{json.dumps(CALL)}", "never ends"),
        (REGION % f"{tagged(CALL)}{tagged(CALL)}", "not one JSON object"),
        (REGION % f'"{tagged(CALL)}"', "not one JSON object"),  # quotes inside are not escaped
        (REGION % tagged([CALL]), "call is not one JSON object"),
        (REGION % f"{OPEN}{CLOSE}", "call is not one JSON object"),
        (REGION % tagged({**CALL, "name": "crop"}), "none of image_zoom_in_tool"),
        (REGION % tagged({**CALL, "id": 1}), "none of image_zoom_in_tool"),
        (REGION % tagged({**CALL, "arguments": [1, 2, 3, 4]}), "arguments"),
        (REGION % tagged({**CALL, "arguments": {"bbox_2d": [1, 2, 3, 4]}}), "arguments"),
        (called(label=3), "label"),
        (called(bbox_2d=None), "four numbers"),
        (called(bbox_2d=[1, 2, 3]), "four numbers"),
        (called(bbox_2d=[1, 2, 3, "4"]), "four numbers"),
        (called(bbox_2d=[1, 2, 3, True]), "four numbers"),
        (called(bbox_2d=[1, 2, 3, float("nan")]), "call is not one JSON object"),
        (called(bbox_2d=[1, 2, 3, 10**9]), "beyond"),
        ((REGION % tagged(CALL)).replace("400", "1e999"), "beyond"),
        ((REGION % tagged(CALL)).replace("400", "9" * 5000), "not one JSON object"),
        (called(bbox_2d=[5, 2, 5, 9]), "no area"),
        (called(bbox_2d=[9, 2, 5, 9]), "no area"),
    ],
)
def test_what_is_invalid_and_why(text, reason) -> None:
    action = PAPER.parse(text)
    assert action.decision is Decision.INVALID
    assert reason in action.reason


def test_a_very_long_answer_is_read_in_linear_time() -> None:
    for piece in (OPEN, CLOSE, "[", '{"Decision":', "\\"):
        assert PAPER.parse(REGION % (piece * 50_000)).decision is Decision.INVALID
