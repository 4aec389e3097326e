"""The whole way through the command line, and every bad input of a user at its door."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from quickstart_run import options, runs
from safetensors.torch import load_file

from regionr1.cli.main import main
from regionr1.evaluation.outcome_file import OUTCOMES, read_outcomes
from regionr1.evaluation.table import METRICS
from regionr1.scorers.builtin import BuiltinScorer, DualEncoder
from regionr1.serve.checkpoint_weights import put_weights
from regionr1.tracking.metric_names import shown_name

METHODS = [
    *("full", "centre_35", "centre", "centre_70", "random", "warm_start", "warm_start_region"),
    *("policy", "policy_region", "better_of"),
]


def files_of(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "mlruns/mlflow.db" not in str(path) and path.suffix != ".lock"
    }


def test_from_nothing_to_predictions(workspace, tiny_policy, capsys) -> None:
    counts = ["--train", "24", "--val", "8", "--test", "10"]
    assert main(["data", "builtin", "--out", "raw", *counts]) == 0
    made = ["data", "prepare", "--root", "raw", "--out", "shards", "--work", "work"]
    assert main(made) == 0
    assert main(["data", "verify", "--out", "shards"]) == 0
    assert "pool recall" in capsys.readouterr().out

    args = options(workspace / "shards", tiny_policy, scorer="builtin")
    assert main(["fit", *args]) == 0
    client, (run,) = runs(workspace)
    home = workspace / "mlruns" / "regionr1" / run.info.run_id
    checkpoint = torch.load(home / "checkpoints" / "step-000002.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all("lora_" in name for name in checkpoint["state_dict"])
    config = yaml.safe_load((home / "artifacts" / "config.yaml").read_text())
    assert config["model"]["group_size"] == 4 == int(run.data.params["model.group_size"])
    assert not {"_instantiator", "delta"} & set(run.data.params), "of the machinery, or not set"
    assert (home / "artifacts" / "adapter" / "adapter_model.safetensors").is_file()
    pictures = list((home / "artifacts" / "images").glob("crops*.png"))
    assert min(Image.open(picture).width for picture in pictures) > 100
    assert sorted(picture.name.split("+")[2] for picture in pictures) == ["0", "1", "2"]
    for name in (
        "loss", "reward", "reward_std", "frac_reward_zero_std", "entropy", "kl",
        "completions/mean_length", "rewards/mrr/mean", "rewards/penalty/std", "lr", "grad_norm",
        "decision/region_rate", "decision/p_full", "box/invalid_rate", "scorer/images_encoded",
        "val/recall_at_1", "val/cond_recall_at_1", "val/invalid_rate",
    ):  # fmt: skip
        assert shown_name(name) in run.data.metrics, name
    assert len(client.get_metric_history(run.info.run_id, "train/reward")) == 2

    assert main(["fit", "--resume", "last", "--trainer.max_steps", "3"]) == 0
    last = torch.load(home / "checkpoints" / "step-000003.ckpt", weights_only=True)
    assert last["global_step"] == 3
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/reward")]
    assert steps == [1, 2, 3], "the resumed run logs on"
    copy = shutil.copytree(home / "artifacts" / "adapter", workspace / "copy")
    logged = load_file(copy / "adapter_model.safetensors")
    assert "the last checkpoint" in put_weights(copy, home, run.info.run_id, "last")
    written = load_file(copy / "adapter_model.safetensors")
    assert all(torch.equal(written.pop(name), value) for name, value in logged.items())
    assert not written, "a checkpoint holds what the adapter's folder does, under PEFT's names"
    assert "the best checkpoint" in put_weights(copy, home, run.info.run_id)

    assert main(["validate", "--resume", "last"]) == 0
    capsys.readouterr()
    assert main(["test", "--resume", "last"]) == 0
    printed = capsys.readouterr().out
    table = json.loads((home / "artifacts" / "test_table.json").read_text())
    assert [row["method"] for row in table] == [*METHODS, "reference", "policy_threshold"]
    assert {row["n"] for row in table} == {10} and {row["n_skipped"] for row in table} == {0}
    assert all(set(METRICS) <= set(row) | set(row.get("metrics", {})) for row in table)
    assert all(method in printed for method in METHODS) and "CondR@1" in printed
    assert (home / "artifacts" / "environment_test.json").is_file()
    drawn = [
        f for f in ("best_gains", "worst_losses") if (home / "artifacts" / f"{f}.png").is_file()
    ]
    ranks = {
        method: [o.rank for o in read_outcomes(home / "artifacts" / OUTCOMES) if o.method == method]
        for method in ("full", "policy")
    }
    moved = list(zip(ranks["full"], ranks["policy"], strict=True))
    assert drawn == [
        *(["best_gains"] if any(after < before for before, after in moved) else []),
        *(["worst_losses"] if any(after > before for before, after in moved) else []),
    ]
    for suffix in ("md", "csv"):
        assert (home / "artifacts" / f"test_table.{suffix}").stat().st_size > 200
    parts = json.loads((home / "artifacts" / "test_table_by_part.json").read_text())
    assert {row["method"] for row in parts} >= {
        "source inaturalist: policy",
        "source landmarks: full",
    }
    for group in ("source", "subset"):
        rows = [row for row in parts if row["method"].startswith(f"{group} ")]
        assert sum(row["n"] for row in rows if row["method"].endswith(": policy")) == 10
    assert "source inaturalist: policy" in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith("|")) <= 100
    logged = client.get_run(run.info.run_id).data.metrics
    assert "test/policy/cond_recall_at_1" in logged
    decision = json.loads((home / "artifacts" / "test_decision.json").read_text())
    assert [row["name"] for row in decision["rows"]][:2] == ["warm_start", "policy"]
    assert decision["rows"][1]["n"] == next(
        row["n_pool_positive"] for row in table if row["method"] == "policy"
    )
    assert 0 < decision["threshold"]["n"] <= 8, "fitted on the validation split"
    assert logged["workings/test.policy_threshold.threshold"] == decision["threshold"]["value"]
    assert "workings/test.decision.policy.regret_mrr" in logged and "regret R@1" in printed
    assert logged["workings/test.gain.gain.mrr"] == pytest.approx(
        sum(logged[f"workings/test.gain.{part}.mrr"] for part in ("switch", "boxes", "decision"))
    )

    args = ["report", run.info.run_id, "--out", "out/r.html"]
    theirs = {"E-VQA_0": {"retrieved_entities": [{"url": "page"}]}}
    Path("theirs.json").write_text(json.dumps(theirs))
    measured = ["data", "premise", "--shards", "shards", "--out", "premise.json"]
    assert main(measured) == 0
    Path("speed.txt").write_text("date: today\n| queries | s |\n| --- | --: |\n| 8 | 0.5 |\n")
    others = ["--rankings", "[theirs=theirs.json]", "--kb", "work", "--premise", "premise.json"]
    others += ["--speed", "speed.txt"]
    assert main([*args, "--root", "raw", "--cases", "2", *others]) == 0
    page = Path("out/r.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 4 and "<h2>Random queries (table 3)" in page
    for title in ("By the full image&#x27;s rank (table 4)", "Other systems", "Re-rankers by pool"):
        assert f"<h2>{title}" in page
    assert "Margins before and after" in page and "agree in every table" in page
    assert "<td>theirs</td>" in page and "<td>policy, searched</td>" in page
    assert "<h2>Headroom before training" in page and "(table 9)" in page
    assert "http" not in page, "nothing is asked of the network"
    assert all(f"<td>{method}</td>" in page for method in METHODS)
    assert (home / "artifacts" / "r.html").read_text(encoding="utf-8") == page
    shutil.move("shards", "elsewhere")
    capsys.readouterr()
    assert main(args) == 0
    assert "report: no pictures. The shards" in capsys.readouterr().out
    shutil.move("elsewhere", "shards")
    for wrong, says in (
        (["report", "nobody"], "no run 'nobody'"),
        ([*args, "--rankings", "[theirs.json]"], "--rankings theirs.json: use NAME=FILE"),
        ([*args, "--rankings", "[x=gone.json]"], "gone.json: the ranking is missing"),
        ([*args, "--speed", "theirs.json"], "theirs.json: holds no table"),
        ([*args, "--premise", "theirs.json"], "theirs.json: is no table of results"),
    ):
        assert main(wrong) == 2
        assert says in capsys.readouterr().err

    assert main(["predict", "--resume", "last", "--predictions.path", "out/p.jsonl"]) == 0
    records = [json.loads(line) for line in Path("out/p.jsonl").read_text().splitlines()]
    assert len({record["key"] for record in records}) == 10
    for record in records:
        assert record["decision"] in ("FULL", "REGION", "INVALID")
        assert (record["ranking"] is None) == (record["decision"] == "INVALID")
        assert len(set(record["ranking_full"])) == len(record["ranking_full"]) > 1
        assert record["data_id"].startswith("E-VQA_") and record["gold_ids"]
        with Image.open(Path("raw") / record["image"]) as image:
            assert list(image.size) == record["size"]
    assert len(runs(workspace)[1]) == 1, "every verb went on with the one run"


# ---- bad input: exit code 2, one line that says what, where and the mend, nothing half-written ---


@pytest.fixture
def refused(workspace, capfd):
    """Runs a command that must be refused; returns its one line."""

    def run(*args: object) -> str:
        before, n_runs = files_of(workspace), len(runs(workspace)[1])
        capfd.readouterr()
        assert main([str(arg) for arg in args]) == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()]
        assert len(errors) == 1 and errors[0].startswith("regionr1: error: "), errors
        assert files_of(workspace) == before, "something was written"
        assert len(runs(workspace)[1]) == n_runs, "an empty run was left in MLflow"
        return errors[0]

    return run


@pytest.fixture
def raw(workspace, small_benchmark) -> Path:
    return shutil.copytree(small_benchmark, workspace / "raw")


@pytest.fixture
def shards(workspace, builtin_shards) -> Path:
    return shutil.copytree(builtin_shards, workspace / "shards")


def change(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")


def first_image(raw: Path) -> Path:
    return min(raw.glob("google-landmarks/*/*/*/*.jpg"))


def missing_image(raw: Path) -> list[str]:
    image = first_image(raw)
    image.unlink()
    return [".csv:", image.name, "add them"]


def unreadable_image(raw: Path) -> list[str]:
    image = first_image(raw)
    image.write_bytes(image.read_bytes()[:300])
    return [image.name, "cannot be decoded", "replace it"]


def malformed_csv_row(raw: Path) -> list[str]:
    lines = (raw / "val.csv").read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 2)[0]
    (raw / "val.csv").write_text("\n".join(lines) + "\n")
    return ["val.csv:4", "13 fields where the header has 15", "quote fields"]


def malformed_kb_entry(raw: Path) -> list[str]:
    path = raw / "encyclopedic_kb_wiki.json"
    pages = json.loads(path.read_text())
    page = sorted(pages)[7]
    pages[page]["section_texts"] = "just text"
    path.write_text(json.dumps(pages))
    return ["encyclopedic_kb_wiki.json", page, "list of texts 'section_texts'"]


def question_without_gold_page(raw: Path) -> list[str]:
    lines = (raw / "test.csv").read_text().splitlines()
    page = next(cell for cell in lines[1].split(",") if cell.startswith("https://"))
    change(raw / "test.csv", (page, ""))
    return ["test.csv:2", "'wikipedia_url' is empty", "every question needs it"]


def no_gold_page_in_the_knowledge_base(raw: Path) -> list[str]:
    for split in ("train", "val", "test"):
        text = (raw / f"{split}.csv").read_text()
        (raw / f"{split}.csv").write_text(text.replace("/wiki/", "/elsewhere/"))
    return ["wiki.json: has none of the", "that the train questions ask for", "base's keys"]


@pytest.mark.parametrize(
    "damage",
    [
        missing_image,
        unreadable_image,
        malformed_csv_row,
        malformed_kb_entry,
        question_without_gold_page,
        no_gold_page_in_the_knowledge_base,
    ],
)
def test_bad_published_files(raw, refused, damage) -> None:
    parts = damage(raw)
    line = refused("data", "shards", "--root", raw, "--out", "out/shards", "--scorer", "pixels")
    assert all(part in line for part in parts), line
    assert not (raw.parent / "out" / "shards").exists()


def test_a_question_whose_page_the_knowledge_base_lacks_is_counted(raw, workspace, capsys) -> None:
    """Not refused: E-VQA has such questions. It counts as a miss, and is told."""
    page = json.loads((raw / "encyclopedic_kb_wiki.json").read_text())
    lines = (raw / "test.csv").read_text().splitlines()
    gold = next(cell for cell in lines[1].split(",") if cell.startswith("https://"))
    assert gold in page
    (raw / "test.csv").write_text("\n".join(lines).replace(gold, gold + "_gone") + "\n")
    args = ["--root", str(raw), "--out", "shards", "--scorer", "pixels", "--k", "60"]
    assert main(["data", "shards", *args]) == 0
    assert "gold page is not in the knowledge base" in capsys.readouterr().out


def truncated_shard(shards: Path) -> list[str]:
    tar = shards / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-2000])
    return ["train-000000.tar", "truncated", "build it again"]


def corrupt_shard(shards: Path) -> list[str]:
    tar = shards / "val-000000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 255
    tar.write_bytes(data)
    return ["val-000000.tar", "altered", "build it again"]


def missing_shards(shards: Path) -> list[str]:
    shutil.rmtree(shards)
    return [str(shards), "no index", "regionr1 data shards"]


def shards_of_another_scorer(shards: Path) -> list[str]:
    for path in shards.glob("*.index.json"):
        index = json.loads(path.read_text())
        index["scorer_fingerprint"] = "0123456789abcdef"
        path.write_text(json.dumps(index))
    return ["made by scorer 0123456789abcdef", "model.reranker", "make shards with this scorer"]


@pytest.mark.parametrize(
    "damage", [truncated_shard, corrupt_shard, missing_shards, shards_of_another_scorer]
)
def test_bad_shards(shards, tiny_policy, refused, damage) -> None:
    parts = damage(shards)
    line = refused("fit", *options(shards, tiny_policy))
    assert all(part in line for part in parts), line


def test_a_scorer_that_the_shards_were_not_made_with(shards, tiny_policy, refused) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = DualEncoder()
    save_file(network.state_dict(), shards.parent / "other.safetensors")
    args = ["--model.reranker.scorer", shards.parent / "other.safetensors"]
    line = refused("test", *options(shards, tiny_policy), *args)
    assert BuiltinScorer(network).fingerprint() in line
    (shards.parent / "other.safetensors").write_bytes(b"not weights")
    line = refused("test", *options(shards, tiny_policy), *args)
    assert "other.safetensors" in line and "scripts/train_scorer" in line


def test_another_scorer_in_the_same_shards(
    shards, small_benchmark, tiny_policy, workspace, refused, capfd
) -> None:
    scorer = workspace / "colour.yaml"
    scorer.write_text("class_path: evqa_files.ColourScorer\n")
    args = options(shards, tiny_policy, steps=1, scorer=str(scorer))
    line = refused("fit", *args)
    assert f"regionr1 data add-scorer --shards {shards} --root ROOT --scorer {scorer}" in line
    named = ["--shards", str(shards), "--scorer", str(scorer)]
    assert main(["data", "add-scorer", *named, "--root", str(small_benchmark)]) == 0
    assert main(["data", "premise", *named]) == 0
    assert "scorer colour, D=12" in capfd.readouterr().out
    assert main(["fit", *args]) == 0
    assert main(["test", *args]) == 0
    assert "policy_region" in capfd.readouterr().out
    _, found = runs(workspace)
    assert [run.data.tags["scorer.fingerprint"] for run in found] == ["colour"] * 2
    assert main(["test", *options(shards, tiny_policy)]) == 0, "the first scorer is still there"


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--model.group_size", 1], ["group_size is 1", "set it to 2 or more"]),
        (["--model.grup_size", 4], ["unknown", "model.grup_size"]),
        (["--model.policy.model", "nowhere/to/be/found"], ["no such model folder"]),
        (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt", "No such file"]),
        (["--data.batch_size", 0], ["data.batch_size=0", "at least 1"]),
        (["--model.reward.mrr", -1], ["at least 0"]),
        (["--model.crop_prior.region_share", 1.5], ["region_share", "between 0 and 1"]),
    ],
)
def test_bad_settings(shards, tiny_policy, refused, args, parts) -> None:
    line = refused("fit", *options(shards, tiny_policy), *args)
    assert all(part in line for part in parts), line


def test_an_unknown_config_key_names_file_and_line(shards, tiny_policy, workspace, refused) -> None:
    (workspace / "mine.yaml").write_text("model:\n  group_size: 4\n  kl_wieght: 0.1\n")
    line = refused("fit", *options(shards, tiny_policy), "-c", "mine.yaml")
    assert "mine.yaml:3" in line and "unknown config key" in line and "kl_wieght" in line


def test_a_checkpoint_of_another_architecture(shards, tiny_policy, workspace, refused) -> None:
    assert main(["fit", *options(shards, tiny_policy, steps=1)]) == 0
    _, (run,) = runs(workspace)
    checkpoint = workspace / "mlruns" / "regionr1" / run.info.run_id / "checkpoints"
    checkpoint /= "step-000001.ckpt"
    for verb in ("fit", "predict"):
        args = ["--ckpt_path", checkpoint, "--model.policy.lora_rank", 2]
        line = refused(verb, *options(shards, tiny_policy), *args)
        assert "another architecture" in line and "config.yaml" in line
    line = refused("test", "--resume", "last", "--model.policy.lora_rank", 2)
    assert "another architecture" in line
    assert runs(workspace)[1][0].info.status == "FINISHED", "the good run stays as it was"

    garbage = workspace / "garbage.ckpt"
    garbage.write_bytes(checkpoint.read_bytes()[:1000])
    line = refused("test", *options(shards, tiny_policy), "--ckpt_path", garbage)
    assert "garbage.ckpt" in line and "give another checkpoint of a run" in line
