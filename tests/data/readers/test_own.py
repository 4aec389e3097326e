"""Reading your own JSON Lines."""

import pytest
from evqa_files import ColourScorer, prepare_shards
from infoseek_files import write_jsonl
from own_files import make_own

from regionr1.data.readers.own import OwnSource
from regionr1.data.records import SkipReport
from regionr1.errors import UserError


@pytest.fixture
def root(tmp_path):
    return make_own(tmp_path / "own")


def test_own_data_becomes_shards(root) -> None:
    index = prepare_shards(OwnSource(root), ColourScorer(), root.parent / "out", ["test"], k=2)[0]
    assert (index.n_samples, index.n_with_positive, index.full_first) == (2, 2, 2)


def test_optional_fields(root) -> None:
    record = {"image": "red.png", "question": "q", "gold": ["red", "blue"], "type": "t"}
    write_jsonl(root / "val.jsonl", [{**record, "box_px": [1, 2, 3, 4], "subset": "s"}, record])
    first, second = OwnSource(root).queries("val", SkipReport())
    assert first.gold_ids == ("red", "blue") and first.cluster == "red|blue"
    assert (first.reference_box_px, second.reference_box_px) == ((1, 2, 3, 4), None)
    assert (first.subset, second.subset, first.question_type) == ("s", "", "t")
    assert "." not in OwnSource(root).queries("test", SkipReport())[0].key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gold": []}, r"val\.jsonl:2: 'gold' names no entity"),
        ({"gold": "red"}, r"val\.jsonl:2: 'gold' must be a list of texts"),
        ({"image": "../red.png"}, "leaves the data folder"),
        ({"question": " "}, r"val\.jsonl:2: 'question' must be a text"),
        ({"id": "1.red"}, r"val\.jsonl:2: id '1\.red' occurs twice"),
        ({"box_px": [3, 1, 2, 2]}, r"val\.jsonl:2: box_px .* with x1 < x2"),
        ({"image": "green.png"}, r"1 of 2 query images .*val\.jsonl.*green\.png"),
    ],
)
def test_malformed_queries(root, values, message) -> None:
    record = {"image": "red.png", "question": "q", "gold": ["red"]}
    write_jsonl(root / "val.jsonl", [{**record, "id": "1.red"}, {**record, **values}])
    with pytest.raises(UserError, match=message):
        OwnSource(root).queries("val", SkipReport())


def test_malformed_entities(root) -> None:
    write_jsonl(root / "entities.jsonl", [{"id": "a", "title": "A", "images": [], "text": 5}])
    with pytest.raises(UserError, match=r"entities\.jsonl:1: 'text' must be a text"):
        list(OwnSource(root).entities(SkipReport()))
    write_jsonl(root / "entities.jsonl", [{"id": "a", "title": "A"}])
    with pytest.raises(UserError, match=r"entities\.jsonl:1: the record has no key 'images'"):
        list(OwnSource(root).entities(SkipReport()))
