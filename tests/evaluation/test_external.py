"""Rankings of other systems: every form, as a row, and what is wrong in one sentence."""

import json
import math
import re
from pathlib import Path

import pytest

from regionr1.errors import UserError
from regionr1.evaluation.external import external_outcomes, read_rankings
from regionr1.evaluation.table import Outcome, metrics_table

PAGES = ["https://e.org/a", "https://e.org/b"]
FORMS = {
    "echosight": {"retrieved_entries": PAGES[::-1], "reranked_entries": PAGES},
    "before": {"retrieved_entries": [*PAGES, PAGES[0]], "retrieval_similarities": [0.9, 0.8, 0.7]},
    "omgm": {"retrieved_entities": [{"url": page, "title": "t"} for page in PAGES]},
    "scar": {"retrieved_entities": [{"id": page} for page in PAGES]},
    "promsa": {"image_search_results": {"organic": [{"link": page} for page in PAGES]}},
}


def written(folder: Path, text: str, name: str = "result.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, json.dumps({"E-VQA_0": FORMS[form]}))
    assert read_rankings(path) == {"E-VQA_0": PAGES}
    lines = written(tmp_path, json.dumps({"data_id": "E-VQA_0", **FORMS[form]}) + "\n", "r.jsonl")
    assert read_rankings(lines) == {"E-VQA_0": PAGES}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"q": {"retrieved_entries": []}, "q": {"retrieved_entries": []}}', "'q' occurs twice"),
        ("{}", "holds no query"),
        ('{"q": {"pages": []}}', "'q': has no list reranked_entries"),
        ('{"q": {"retrieved_entries": [3]}}', "neither an id nor an object"),
        ('{"q": {"retrieved_entries": [{"name": "a"}]}}', "neither an id nor an object"),
        ("[]", "must be a JSON object"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        read_rankings(written(tmp_path, text))
    assert "\n" not in str(caught.value) and "result.json" in str(caught.value)


def test_a_bad_line_names_its_place(tmp_path: Path) -> None:
    line = '{"data_id": 3, "retrieved_entries": []}\n'
    with pytest.raises(UserError, match=r"r.jsonl:1: 'data_id' must be a text, got 3"):
        read_rankings(written(tmp_path, line, "r.jsonl"))


def queries(data_ids=("E-VQA_0", "E-VQA_1", "E-VQA_2")) -> list[Outcome]:
    """The row `full` of a test whose right page is always a."""
    return [
        Outcome(f"k{i}", "a", "full", ["x"], [PAGES[0]], False, math.inf, 0.0, "FULL",
                data_id=data_id) for i, data_id in enumerate(data_ids)
    ]  # fmt: skip


def test_a_file_becomes_a_row_of_its_own_pools() -> None:
    rankings = {"E-VQA_0": PAGES, "E-VQA_2": ["https://e.org/c"]}
    found = external_outcomes("theirs", Path("r.json"), rankings, queries())
    (row,) = metrics_table(found, n_total=3)
    assert (row.method, row.n, row.n_skipped, row.n_pool_positive) == ("theirs", 2, 1, 1)
    assert row.metrics["recall_at_1"].value == 0.5 and row.metrics["cond_recall_at_1"].value == 1
    second = external_outcomes("theirs", Path("r.json"), {"E-VQA_0": PAGES[::-1]}, queries())
    assert second[0].rank == 2 and second[0].ndcg == pytest.approx(1 / math.log2(3))


def test_unknown_queries_are_refused() -> None:
    with pytest.raises(UserError, match=r"1 of its 2 queries are not in the test.*'E-VQA_9'"):
        external_outcomes("t", Path("r.json"), {"E-VQA_0": PAGES, "E-VQA_9": PAGES}, queries())
    with pytest.raises(UserError, match="keeps no data_id of its queries"):
        external_outcomes("t", Path("r.json"), {"E-VQA_0": PAGES}, queries([None]))
