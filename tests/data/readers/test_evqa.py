"""Reading E-VQA's published layout, and refusing what is not it."""

import json

import pytest
from evqa_files import ColourScorer, EvqaFiles, make_evqa, prepare_shards, url_of

from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.records import SkipReport
from regionr1.errors import UserError


@pytest.fixture
def files(tmp_path) -> EvqaFiles:
    return make_evqa(tmp_path)


def read(files: EvqaFiles, split: str = "train", **options):
    report = SkipReport()
    queries = EvqaSource(files.write()).queries(split, report, **options)
    return queries, report


def test_every_image_of_a_row_is_a_query(files) -> None:
    queries, report = read(files)
    assert len(queries) == 8 and report.total == 0
    assert len({query.key for query in queries}) == 8
    assert all("." not in query.key for query in queries)
    assert all(query.image_path.is_file() for query in queries)
    first = queries[0]
    assert first.gold_ids == (url_of(0),) == (first.cluster,)
    assert "%C3%A9" in first.cluster  # compared as published, never decoded
    assert first.question == 'Where, in row 0, is "this"?'
    assert [query.source for query in queries[:3]] == ["landmarks", "landmarks", "inaturalist"]
    assert queries[2].reference_box_px == (12, 8, 36, 32)
    assert first.reference_box_px is None


def test_columns_are_read_by_name_and_bom_is_accepted(files) -> None:
    files.write()
    path = files.root / "val.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\r\n".join(
        ["data_id," + lines[0], *(f"E-VQA_{n}," + x for n, x in enumerate(lines[1:]))]
    )
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert len(EvqaSource(files.root).queries("val", SkipReport())) == 5


def test_two_hop_is_counted_or_kept(files) -> None:
    files.rows["test"][1].update(
        question_type="2_hop", wikipedia_url=f"{url_of(1)}|{url_of(2)}", wikipedia_title="A|B"
    )
    queries, report = read(files, "test")
    assert len(queries) == 5 and report.as_dict() == {"2_hop question": 1}
    source = EvqaSource(files.root, include_two_hop=True)
    kept = source.queries("test", SkipReport())
    assert kept[2].gold_ids == (url_of(1), url_of(2))


def test_missing_query_images_are_counted(files) -> None:
    files.write()
    files.image_of("train", 1).unlink()
    files.image_of("train", 2).unlink()
    del files.names["train"][files.rows["train"][3]["dataset_image_ids"]]
    with pytest.raises(UserError, match=r"3 of 8 query images .*first at .*train\.csv:3: .*00001_"):
        read(files)
    queries, report = read(files, skip_missing=True)
    assert len(queries) == 5 and report.as_dict() == {"missing query image": 3}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("wikipedia_url", "", r"train\.csv:4: column 'wikipedia_url' is empty"),
        ("wikipedia_url", "a||b", r"train\.csv:4: .*empty part"),
        ("question", " ", r"train\.csv:4: column 'question' is empty"),
        ("dataset_image_ids", "../../etc", r"train\.csv:4: '../../etc' is not an image id"),
        ("dataset_image_ids", "ab", r"train\.csv:4: landmark image id 'ab' is too short"),
        ("dataset_name", "imagenet", r"train\.csv:4: dataset_name 'imagenet' is unknown"),
        ("encyclopedic_vqa_split", "test", r"train\.csv:4: row belongs to split 'test'"),
    ],
)
def test_malformed_values(files, column, value, message) -> None:
    files.rows["train"][2][column] = value
    with pytest.raises(UserError, match=message):
        read(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:3], "one,two,three", *lines[3:]], r":4: 3 fields where .* 14"),
        (
            lambda lines: [lines[0].replace("question_type", "kind"), *lines[1:]],
            r":1: .*'question_ty",
        ),
        (lambda lines: [*lines, '"never closed'], r"malformed CSV"),
        (lambda lines: [], r":1: the header has no column 'question'"),
        (lambda lines: lines[:1], r"no usable question"),
    ],
)
def test_malformed_csv(files, change, message) -> None:
    path = files.write() / "train.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(change(lines)), encoding="utf-8")
    out = files.root / "shards"
    with pytest.raises(UserError, match=message):
        prepare_shards(EvqaSource(files.root), ColourScorer(), out)
    assert not out.exists()


def test_missing_split_and_folder(files) -> None:
    files.write()
    (files.root / "val.csv").unlink()
    with pytest.raises(UserError, match=r"val\.csv: the questions of this split are missing"):
        EvqaSource(files.root).queries("val", SkipReport())
    with pytest.raises(UserError, match="no such folder"):
        EvqaSource(files.root / "nowhere")


def test_a_row_without_an_image_id_refuses_no_file(files) -> None:
    files.rows["train"][2]["dataset_image_ids"] = ""
    report = SkipReport()
    queries = EvqaSource(files.write()).queries("train", report)
    assert report.as_dict() == {"question without an image id": 1} and len(queries) == 7
    assert report.first["question without an image id"].endswith("train.csv:4")
    # Result files count rows, so the next row keeps its number.
    assert "E-VQA_3" in {query.data_id for query in queries}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ('{"dataset_name": "a", "image_id": "b", "box_px": [1, 2, 3]}', "box_px must be 4 numbers"),
    ],
)
def test_malformed_reference_box(files, line, words) -> None:
    (files.write() / "reference_boxes.jsonl").write_text(line)
    with pytest.raises(UserError, match=rf"reference_boxes\.jsonl:1: {words}"):
        EvqaSource(files.root).queries("train", SkipReport())


def test_reference_box_must_have_an_area(files) -> None:
    files.boxes[0]["box_px"] = [9, 1, 9, 5]
    with pytest.raises(UserError, match=r"reference_boxes\.jsonl:1: box_px .* with x1 < x2"):
        read(files)


def test_entities(files) -> None:
    entities = list(EvqaSource(files.write()).entities(SkipReport()))
    assert [entity.id for entity in entities] == [url_of(n) for n in range(5)]
    assert entities[1].text == "Entity 1\nEntity 1 is coloured."
    assert [len(entity.image_paths) for entity in entities] == [2] * 5
    assert [entity.n_unresolved for entity in entities] == [1] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, "no text field 'title'"),
        ({"url": "https://elsewhere"}, "other url"),
        ({"image_urls": "x.jpg"}, "list of texts 'image_urls'"),
        ({"section_texts": [1, 2]}, "list of texts 'section_texts'"),
        ({"section_titles": ["only one"]}, "1 section titles for 2 section texts"),
    ],
)
def test_malformed_kb_entry(files, change, message) -> None:
    files.kb[url_of(3)].update(change)
    with pytest.raises(UserError, match=f"KB entry .*Entity_3'.*{message}"):
        list(EvqaSource(files.write()).entities(SkipReport()))


def test_broken_kb_files(files) -> None:
    path = files.write() / "encyclopedic_kb_wiki.json"
    whole = path.read_text(encoding="utf-8")
    source = EvqaSource(files.root)
    path.write_text(whole[: len(whole) // 2], encoding="utf-8")
    with pytest.raises(
        UserError, match=r"kb_wiki\.json: the knowledge base is not valid JSON.*truncated"
    ):
        list(source.entities(SkipReport()))
    path.write_text("[]")
    with pytest.raises(UserError, match=r"must be a JSON object \{...\}"):
        list(source.entities(SkipReport()))
    path.write_bytes(b'{"\xff": 1}')
    with pytest.raises(UserError, match="not UTF-8"):
        list(source.entities(SkipReport()))
    path.unlink()
    with pytest.raises(UserError, match="knowledge base is missing"):
        list(source.entities(SkipReport()))


def test_mapping_may_not_leave_the_folder(files) -> None:
    files.mapping[next(iter(files.mapping))] = "../secret.jpg"
    with pytest.raises(UserError, match="leaves the data folder"):
        list(EvqaSource(files.write()).entities(SkipReport()))
    files.mapping[next(iter(files.mapping))] = 7
    (files.root / "url_to_path_mapping.json").write_text(json.dumps(files.mapping))
    with pytest.raises(UserError, match="expected a relative file path"):
        list(EvqaSource(files.root).entities(SkipReport()))
