"""The paper's answer form (Region-R1, arXiv 2604.05268, table 10), strictly read.

An answer is one JSON object and nothing else:

    {"Decision": "FULL"}
    {"Decision": "REGION", "Tool": <tool_call>{"name": "image_zoom_in_tool", "arguments":
        {"bbox_2d": [x1, y1, x2, y2], "label": "..."}}</tool_call>}

The call stands in its tags where a value would, or as a JSON string with its quotes escaped. The
label is any string without tags. Where a grammar forces the answer's end, which the paper does not,
the label is "region".
"""

from __future__ import annotations

import json
from typing import Any

from regionr1.algorithm.answers import Action, AnswerForm, Decision, invalid, read_box

TOOL = "image_zoom_in_tool"
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_PLACE = "the tool call stands here"


def _read(answer: str) -> Action:
    head, opened, rest = answer.partition(OPEN)
    call, closed, tail = rest.partition(CLOSE)
    if opened and not closed:
        return invalid("the tool call never ends")
    bare = head.rstrip().endswith(":")
    found = _object(f"{head}{json.dumps(_PLACE)}{tail}" if bare else answer)
    if found is None:
        return invalid("the answer is not one JSON object")
    decision, tool = found.get("Decision"), found.get("Tool")
    if decision not in ("FULL", "REGION"):
        return invalid("Decision is neither FULL nor REGION")
    if decision == "FULL":
        return Action(Decision.FULL) if len(found) == 1 else invalid("FULL has more than Decision")
    if found.keys() != {"Decision", "Tool"} or not isinstance(tool, str):
        return invalid("REGION is not Decision and Tool alone")
    if not bare:
        tool = tool.strip()
        if not (tool.startswith(OPEN) and tool.endswith(CLOSE)):
            return invalid("Tool is no tool call")
        call = tool[len(OPEN) : -len(CLOSE)]
    elif tool != _PLACE:
        return invalid("Tool is no tool call")
    return _read_call(call)


def _read_call(text: str) -> Action:
    call = _object(text)
    if call is None:
        return invalid("the tool call is not one JSON object")
    arguments = call.get("arguments")
    if call.keys() != {"name", "arguments"} or call["name"] != TOOL:
        return invalid(f"the tool call is none of {TOOL}")
    if not isinstance(arguments, dict) or arguments.keys() != {"bbox_2d", "label"}:
        return invalid("the arguments are not bbox_2d and label")
    box, label = arguments["bbox_2d"], arguments["label"]
    if not isinstance(label, str):
        return invalid("the label is no text")
    if not isinstance(box, list) or any(type(value) not in (int, float) for value in box):
        return invalid("the box is not four numbers")
    return read_box(box)


def _object(text: str) -> dict[str, Any] | None:
    """The one JSON object that a text is, with no key twice; None for any other text."""
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


PAPER = AnswerForm(
    '{"Decision": "FULL"}',
    f'{{"Decision": "REGION", "Tool": {OPEN}{{"name": "{TOOL}", "arguments": {{"bbox_2d": [',
    f'], "label": "region"}}}}{CLOSE}}}',
    _read,
)
