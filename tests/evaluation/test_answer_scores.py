"""Answer scores: InfoSeek's official rules, E-VQA's exact match."""

import json

import pytest
from evqa_files import make_evqa
from hypothesis import given
from hypothesis import strategies as st
from infoseek_files import make_infoseek

from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.evaluation import evqa_answers, infoseek_answers
from regionr1.evaluation.infoseek_answers import final_score, is_correct, numbers_in, part_score


def test_published_final_scores() -> None:
    assert final_score(12.74, 12.28) == 12.51  # BLIP2, as the authors publish it
    assert final_score(8.89, 7.38) == pytest.approx(8.06, abs=0.01)  # InstructBLIP
    assert final_score(0.0, 50.0) == 0.0


def test_part_score_pools_all_types() -> None:
    assert part_score([True, False, False]) == 33.33
    with pytest.raises(UserError, match="without predictions"):
        part_score([])


@pytest.mark.parametrize(
    ("prediction", "correct"),
    [
        ("The U.S.A.", True),
        ("united  states", True),
        ("An United States", True),
        ("USA, I think", False),
        ("", False),
    ],
)
def test_texts_match_any_form_exactly(prediction, correct) -> None:
    assert is_correct(prediction, ["USA", "United States"]) is correct


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("about 1,234.5 metres", [1234.5]),
        ("9-10", [9, 10]),
        ("between -3 and 4, or 5", [-3, 4]),
        ("1e3 to .5", [1000, 0.5]),
        ("12,34", [12, 34]),
        ("no idea", [0, 0]),
    ],
)
def test_numbers(text, values) -> None:
    assert numbers_in(text) == values


@pytest.mark.parametrize(
    ("prediction", "correct"),
    [
        ("213.3", True),  # the edges count
        ("260.7", True),
        ("213.2", False),
        ("220 - 250", True),  # inside
        ("200-261", True),  # overlaps by more than half
        ("0-261", False),
        ("237 - 100", True),  # turned round: the first number alone
        ("100 237", False),
        ("two hundred", False),
    ],
)
def test_ranges(prediction, correct) -> None:
    reference = {"wikidata": 237.0, "range": [213.3, 260.7]}
    assert is_correct(prediction, [reference]) is correct
    assert is_correct(prediction, reference) is correct


def test_no_number_is_zero() -> None:
    assert is_correct("none at all", {"wikidata": 0.0, "range": [0.0, 0.0]})


@pytest.mark.parametrize("reference", [3, [3], [{"wikidata": 1.0}], {"range": [1]}, ["a", {}]])
def test_malformed_references(reference) -> None:
    with pytest.raises(UserError):
        is_correct("1", reference)


@given(st.text())
def test_any_prediction_is_scored(prediction) -> None:
    assert is_correct(prediction, [{"wikidata": 1.0, "range": [0.9, 1.1]}]) in (True, False)
    assert is_correct(prediction, [prediction]) is True
    assert evqa_answers.exact_match(prediction, "reference", "automatic") in (True, False)


@pytest.mark.parametrize(
    ("prediction", "answer", "kind", "correct"),
    [
        ("1925", "1925 ", "templated", True),
        ("The answer is 1925.", "1925", "templated", True),
        ("two", "in 1925|2", "automatic", True),
        ("True", "yes", "2_hop", True),
        ("<extra_id_0> Don\u2019t\tknow", "dont know", "automatic", True),
        ("1926", "1925", "templated", False),
        ("estuaries and harbours", "harbours&&estuaries", "multi_answer", True),
        ("harbours", "harbours&&estuaries", "multi_answer", True),  # half is enough
        ("harbours, rivers", "harbours&&estuaries|a&&b", "multi_answer", False),
        ("harbours & rivers", "lakes|harbours&&rivers", "multi_answer", True),
        ("harbour", "harbour", "multi_answer", True),  # one item, no &&
        ("", "a&&b", "multi_answer", False),
    ],
)
def test_evqa_exact_match(prediction, answer, kind, correct) -> None:
    assert evqa_answers.exact_match(prediction, answer, kind) is correct


@pytest.mark.parametrize(("answer", "kind"), [("", "templated"), (" | ", "automatic"), ("a", "?")])
def test_evqa_malformed(answer, kind) -> None:
    with pytest.raises(UserError):
        evqa_answers.exact_match("a", answer, kind)
    assert infoseek_answers.normalise("A  cat, an the dog") == "cat dog"


def run(*args: object) -> int:
    return main(["data", "answers", *map(str, args)])


def predicted(path, texts: dict[str, str], as_list: bool = False):
    records = [{"data_id": data_id, "prediction": text} for data_id, text in texts.items()]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(json.dumps(records) if as_list else lines)
    return path


@pytest.mark.parametrize("as_list", [True, False])
def test_infoseek_command(tmp_path, capsys, as_list) -> None:
    root = make_infoseek(tmp_path, echosight=False, sizes=(5, 8))
    # In turn a text, a number and a date are asked for; questions and entities alternate.
    texts = {f"infoseek_val_{n:08d}": ("here", "10", "1990")[n % 3] for n in range(6)}
    texts |= {"infoseek_val_00000001": "99", "infoseek_val_99999999": "?"}
    path = predicted(tmp_path / "p", texts, as_list)
    assert run("--predictions", path, "--references", root / "infoseek_val.jsonl") == 0
    told = capsys.readouterr().out
    assert "unseen_question: 100.00  (N=3)" in told and "unseen_entity: 66.67  (N=3)" in told
    assert f"final: {final_score(100.0, 66.67):.2f}" in told
    assert "2 of 8 questions have no prediction" in told and "1 predictions are for no" in told


def test_evqa_command(tmp_path, capsys) -> None:
    files = make_evqa(tmp_path)
    files.rows["test"][1].update(question_type="2_hop", wikipedia_url="a|b")
    files.write()
    path = predicted(tmp_path / "p", {"E-VQA_0": "Here", "E-VQA_1": "there!", "E-VQA_2": "no"})
    assert (
        run("--source", "evqa", "--predictions", path, "--references", tmp_path / "test.csv") == 0
    )
    told = capsys.readouterr().out
    assert "single-hop: 66.67  (N=3)" in told and evqa_answers.NOTE in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"data_id": "a"}]', "prediction 0 needs the texts"),
        ('[{"data_id": "a", "prediction": 3}]', "prediction 0 needs the texts"),
        ("[", "not valid JSON"),
        ('{"data_id": "a", "prediction": "b"}\n' * 2, "data_id 'a' occurs twice"),
        ('{"data_id": "a", "prediction": "b"}', "no prediction is for a question of"),
    ],
)
def test_bad_predictions(tmp_path, text, message, capsys) -> None:
    root = make_infoseek(tmp_path, echosight=False, sizes=(2, 2))
    (tmp_path / "p").write_text(text)
    references = root / "infoseek_val.jsonl"
    assert run("--predictions", tmp_path / "p", "--references", references) == 2
    assert message in capsys.readouterr().err
