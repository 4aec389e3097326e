"""Reading InfoSeek: official and EchoSight's files, joins by id, OVEN's layouts."""

import gzip
import json
from collections import Counter

import pytest
from infoseek_files import entities, make_infoseek, url_of, write_jsonl

from regionr1.data.readers.infoseek import InfoseekSource, answer_type
from regionr1.data.records import SkipReport
from regionr1.errors import UserError


@pytest.fixture
def official(tmp_path):
    return make_infoseek(tmp_path, echosight=False)


@pytest.fixture
def echosight(tmp_path):
    return make_infoseek(tmp_path, echosight=True)


def read(root, split="test", **options):
    report = SkipReport()
    return InfoseekSource(root).queries(split, report, **options), report


def test_val_is_test_with_both_parts(official) -> None:
    queries, report = read(official)
    assert [query.key for query in queries] == [f"infoseek_val_{n:08d}" for n in range(6)]
    assert [query.gold_ids for query in queries[:5]] == [(qid,) for qid in entities()]
    assert Counter(query.subset for query in queries) == {"unseen_question": 3, "unseen_entity": 3}
    assert [query.question_type for query in queries[:3]] == ["string", "numerical", "time"]
    assert queries[0].question == "What is \u00e9 0?"
    assert report.total == 0
    names = [query.image_path.relative_to(official / "oven_images").parts[0] for query in queries]
    assert names[1:4] == ["04", "04", "aircraft"]  # nested twice, then through OVEN's table


def test_train_is_shared_out_by_entity(official) -> None:
    train, val = read(official, "train")[0], read(official, "val")[0]
    assert len(train) == 8 and len(val) == 2
    assert not {q.gold_ids for q in train} & {q.gold_ids for q in val}
    # Without qtype, the answers tell numbers from texts, and no more.
    assert {query.question_type for query in train} == {"string", "numerical"}


def test_echosight_files_join_the_official_ones(echosight) -> None:
    queries, _ = read(echosight)
    assert [query.gold_ids[0] for query in queries[:5]] == [url_of(qid) for qid in entities()]
    assert all("%C3%89" in query.gold_ids[0] for query in queries)
    assert [query.question_type for query in queries[:3]] == ["string", "numerical", "time"]
    assert Counter(query.subset for query in queries) == {"unseen_question": 3, "unseen_entity": 3}
    for name in ("infoseek_val.jsonl", "infoseek_val_qtype.jsonl"):
        (echosight / name).unlink()
    alone, _ = read(echosight)
    assert {(query.question_type, query.subset) for query in alone} == {("infoseek", "")}
    assert [query.data_id for query in alone] == [query.data_id for query in queries]


def test_knowledge_bases(tmp_path) -> None:
    for echosight, n_images in ((False, 1), (True, 2)):
        root = tmp_path / str(echosight)
        root.mkdir()
        found = list(InfoseekSource(make_infoseek(root, echosight)).entities(SkipReport()))
        assert [len(entity.image_paths) for entity in found[:5]] == [n_images] * 5
        assert sum(entity.n_unresolved for entity in found) == 0
    wiki6m = list(InfoseekSource(tmp_path / "False").entities(SkipReport()))
    assert wiki6m[0].text == f"Thing {entities()[0]}\nIt is a thing."
    assert wiki6m[5].id == "Q7" and wiki6m[5].image_paths == ()


def test_a_record_without_entity_is_counted(official) -> None:
    path = official / "infoseek_val_withkb.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    queries, report = read(official)
    assert len(queries) == 5 and report.as_dict() == {"question without an entity in withkb": 1}


def test_a_missing_image_is_counted(official) -> None:
    (official / "oven_images" / "oven_04900001.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 8 query images .*train\.jsonl.*oven_04900001\.jpg"):
        read(official, "train")
    assert read(official, "train", skip_missing=True)[1].as_dict() == {"missing query image": 1}


def change(path, number: int, **values) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[number].update(values)
    write_jsonl(path, [{k: v for k, v in r.items() if v is not ...} for r in records])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("infoseek_val", {"image_id": "../../etc/passwd"}, "'../../etc/passwd' is no image id"),
        ("infoseek_val", {"image_id": 7}, r"val\.jsonl:2: 7 is no image id"),
        ("infoseek_val", {"question": 7}, r"val\.jsonl:2: 'question' must be a text"),
    ],
)
def test_malformed_records(official, name, values, message) -> None:
    change(official / f"{name}.jsonl", 1, **values)
    with pytest.raises(UserError, match=message):
        read(official)


AGAIN = "question of a data_id that came before"
NO_ENTITY = "question without an entity in withkb"


@pytest.mark.parametrize(
    ("name", "values", "counted"),
    [
        ("infoseek_val", {"data_id": "infoseek_val_00000000"}, {AGAIN: 1}),  # another language
        ("infoseek_val", {"image_id": ...}, {"question without an image id": 1}),
        ("infoseek_val", {"image_id": None}, {"question without an image id": 1}),
        ("infoseek_val", {"image_id": " "}, {"question without an image id": 1}),
        ("infoseek_val_withkb", {"entity_id": None}, {NO_ENTITY: 1}),
        ("infoseek_val_withkb", {"data_id": ...}, {NO_ENTITY: 1}),
        ("infoseek_val_withkb", {"data_id": "infoseek_val_00000000"}, {NO_ENTITY: 1}),
        ("infoseek_val_qtype", {"data_id": "infoseek_val_00000000"}, {}),
        ("infoseek_val_qtype", {"question_type": None}, {}),
    ],
)
def test_one_odd_row_is_counted_and_refuses_no_file(official, name, values, counted) -> None:
    change(official / f"{name}.jsonl", 1, **values)
    queries, report = read(official)
    assert report.as_dict() == counted and len(queries) == 6 - report.total
    assert all(":2" in place for place in report.first.values()) or NO_ENTITY in counted


def test_a_missing_table_of_types_is_said(official) -> None:
    assert not any("qtype" in sentence for sentence in InfoseekSource(official).missing())
    (official / "infoseek_val_qtype.jsonl").unlink()
    assert "a time looks like any string" in InfoseekSource(official).missing()[-1]
    kinds = [query.question_type for query in read(official)[0]]
    assert kinds == ["string", "numerical", "string"] * 2


def test_rows_of_wiki6m_that_say_nothing_new_are_counted(official) -> None:
    path = official / "Wiki6M_ver_1_0.jsonl.gz"
    with gzip.open(path, "rt") as file:
        lines = file.readlines()
    odd = ['{"wikidata_id": null, "wikipedia_title": "x"}\n', '{"wikidata_id": "Q5"}\n']
    with gzip.open(path, "wt") as file:
        file.writelines([*odd, *lines, *lines[:2]])
    report = SkipReport()
    assert len(list(InfoseekSource(official).entities(report))) == len(lines)
    assert report.as_dict() == {
        "article without an id or a title": 2, "article of an id that came before": 2,
    }  # fmt: skip


def test_malformed_files(official) -> None:
    path = official / "infoseek_val.jsonl"
    whole = path.read_bytes()
    for text, message in (
        (whole[:-40], r"val\.jsonl:6: not valid JSON .*truncated"),
        (b"\xff\n" + whole, r"val\.jsonl:1: not UTF-8 at byte 0"),
        (b"[1]\n", r"val\.jsonl:1: expected a JSON object, got a list"),
    ):
        path.write_bytes(text)
        with pytest.raises(UserError, match=message):
            read(official)


def test_truncated_wiki6m(official) -> None:
    path = official / "Wiki6M_ver_1_0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="truncated or damaged gzip"):
        list(InfoseekSource(official).entities(SkipReport()))
    with gzip.open(path, "wt") as file:
        file.write('{"wikidata_id": "no", "wikipedia_title": "x"}')
    with pytest.raises(UserError, match=r"gz:1: wikidata_id 'no' is not of the form Q123"):
        list(InfoseekSource(official).entities(SkipReport()))


def test_wrong_image_folder(official) -> None:
    (official / "oven_images").rename(official / "pictures")
    with pytest.raises(UserError, match="oven_images: no such folder; it should hold OVEN"):
        read(official)


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"answer_eval": [{"wikidata": 1.0, "range": [0, 2]}]}, "numerical"),
        ({"answer_eval": {"wikidata": 1.0, "range": [0, 2]}}, "numerical"),
        ({"answer_eval": ["1990"]}, "string"),
        ({}, "string"),
    ],
)
def test_answer_type(record, kind) -> None:
    assert answer_type(record) == kind
