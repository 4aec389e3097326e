"""`regionr1 data` stage by stage, for every kind of source, as a user types it."""

import json

import pytest
from evqa_files import make_evqa, url_of
from infoseek_files import make_infoseek
from own_files import make_own

from regionr1.cli.main import main
from regionr1.data.shards.index import load_index


def run(*args: object) -> int:
    return main(["data", *map(str, args)])


@pytest.fixture
def evqa(tmp_path):
    (tmp_path / "evqa").mkdir()
    return make_evqa(tmp_path / "evqa").write()


def test_each_stage_alone_then_all_at_once(evqa, tmp_path, capsys) -> None:
    work, out = tmp_path / "work", tmp_path / "shards"
    assert run("embed", "--root", evqa, "--work", work, "--scorer", "pixels") == 0
    assert run("index", "--work", work) == 0
    assert run("pool", "--work", work, "--k", 4) == 0
    assert run("shards", "--root", evqa, "--out", out, "--work", work) == 0
    assert run("verify", "--out", out) == 0
    told = capsys.readouterr().out
    assert "next: regionr1 data index --work" in told and "index Flat over 10 images" in told
    assert "kb: 5 x KB image without a file, the first: https://en.wikipedia.org/wiki/" in told
    assert "train: 8 pools of up to 4" in told and "test: source landmarks: 4 pools" in told
    first = load_index(out, "test")
    # The same again, by one command: everything is kept.
    assert run("prepare", "--root", evqa, "--out", out, "--work", work, "--k", 4,
               "--scorer", "pixels") == 0  # fmt: skip
    assert load_index(out, "test") == first
    capsys.readouterr()
    assert run("describe", "--out", out) == 0
    assert capsys.readouterr().out in told


@pytest.mark.parametrize("layout", ["official", "echosight", "own"])
def test_prepare_every_layout(layout, tmp_path) -> None:
    root, source = tmp_path / layout, "infoseek"
    if layout == "own":
        make_own(root)
        source = "own"
    else:
        root.mkdir()
        make_infoseek(root, layout == "echosight", (30, 6))
    out = tmp_path / "shards"
    assert run("prepare", "--root", root, "--source", source, "--out", out,
               "--work", tmp_path / "work", "--scorer", "pixels", "--k", 4) == 0  # fmt: skip
    index = load_index(out, "test")
    assert index.source == source and index.n_with_positive == index.n_read
    if layout != "own":
        assert set(index.groups["subset"]) == {"unseen_question", "unseen_entity"}


def test_bad_questions_cost_no_knowledge_base_and_their_mend_goes_on(tmp_path, capsys) -> None:
    root, work = make_own(tmp_path / "own"), tmp_path / "work"
    with (root / "train.jsonl").open("a") as file:
        record = {"image": "gone.png", "question": "Which shop?", "gold": ["red"], "id": "1.gone"}
        file.write(json.dumps(record) + "\n")
    command = ("prepare", "--root", root, "--source", "own", "--out", tmp_path / "shards",
               "--work", work, "--scorer", "pixels", "--k", 4)  # fmt: skip
    assert run(*command) == 2
    assert "train.jsonl:3" in (said := capsys.readouterr().err) and "--skip_missing true" in said
    assert not list(work.glob("kb/part-*"))
    assert run(*command, "--samples_per_shard", 0) == 2
    assert "samples_per_shard=0" in capsys.readouterr().err
    assert run(*command, "--skip_missing", "true") == 0
    index = load_index(tmp_path / "shards", "train")
    assert index.skipped == {"missing query image": 1}
    # Where it is, without the folder on this machine: in the index and in what is printed.
    place = "train.jsonl:3: file gone.png"
    assert index.examples == {"missing query image": place}
    assert (
        f"train: 1 left out: missing query image, the first: {place}\n" in capsys.readouterr().out
    )


def test_import_a_result_file(evqa, tmp_path, capsys) -> None:
    results = tmp_path / "results.json"
    pages = {"retrieved_entries": [url_of(n) for n in range(5)]}
    results.write_text(json.dumps({f"E-VQA_{n}": pages for n in range(5)}))
    command = ["prepare", "--root", evqa, "--out", tmp_path / "shards", "--work", tmp_path / "work",
               "--scorer", "pixels", "--results", results]  # fmt: skip
    assert run(*command) == 2
    assert "holds the results of one split; name it with --splits" in capsys.readouterr().err
    assert run(*command, "--splits", '["test"]') == 0
    assert load_index(tmp_path / "shards", "test").k == 20
    assert "1 left out: no retrieval result for the query" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes(evqa, tmp_path, capfd) -> None:
    common = ["--root", evqa, "--scorer", "pixels", "--part_size", 3]
    both = [*common, "--work", tmp_path / "two", "--devices", 2, "--accelerator", "cpu"]
    assert run("embed", *common, "--work", tmp_path / "one") == 0
    assert run("embed", *both) == 0
    for name in ("kb", "queries-train"):
        one, two = (
            json.loads((tmp_path / which / name / "complete.json").read_text())
            for which in ("one", "two")
        )
        assert one == two
    (evqa / "test.csv").write_text("broken")
    assert run("embed", *both[:-4], "--devices", 2, "--accelerator", "cpu") == 2
    assert "error: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", 0], "batch_size=0: must be at least 1"),
        (["--devices", 0], "devices=0: must be at least 1"),
        (["--accelerator", "gpu"], "torch finds no GPU here"),
        (["--scorer", "nowhere.yaml"], "cannot read config file nowhere.yaml"),
    ],
)
def test_bad_options(evqa, tmp_path, options, message, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("embed", "--root", evqa, "--work", tmp_path / "work", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
