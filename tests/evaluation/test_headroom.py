"""The premise command: hand-made pools, raw pixels, and refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evqa_files import ColourScorer, make_shards
from PIL import Image
from safetensors.torch import save_file

from regionr1.cli.data import premise
from regionr1.data.shards.index import load_index
from regionr1.data.shards.samples import ShardSample
from regionr1.data.shards.stream import read_samples
from regionr1.errors import UserError
from regionr1.evaluation.headroom import chance, headroom, reembed
from regionr1.evaluation.table import metrics_table
from regionr1.scorers.builtin import DualEncoder, PixelScorer
from regionr1.scorers.load import load_scorer

RED, GREEN = (220, 30, 30), (30, 200, 40)


def sample(key: str, box: tuple[float, float, float, float] | None) -> ShardSample:
    """A green image with a red square at (8, 8, 24, 24); the gold entity is red."""
    image = Image.new("RGB", (64, 64), GREEN)
    image.paste(RED, (8, 8, 24, 24))
    pool = [Image.new("RGB", (8, 8), colour) for colour in (GREEN, RED)]
    scorer = ColourScorer()
    return ShardSample(
        key=key,
        image=image,
        question="Which?",
        gold_ids=["red"],
        cluster="red",
        question_type="templated",
        source="landmarks",
        candidate_ids=["green", "red"],
        candidate_images=["green.png", "red.png"],
        labels=[False, True],
        candidates=scorer.embed_images(pool).numpy(),
        full=scorer.embed_images([image])[0].numpy(),
        reference_box_px=box,
    )


SAMPLES = [sample("a", None), sample("b", (8, 8, 24, 24))]


def test_reference_boxes_rank_what_the_full_image_misses() -> None:
    full, reference = metrics_table(headroom(SAMPLES, ColourScorer()))
    assert (full.method, full.n, full.n_skipped) == ("full", 2, 0)
    assert (reference.method, reference.n, reference.n_skipped) == ("reference", 1, 1)
    assert full.metrics["cond_recall_at_1"].value == 0
    assert full.metrics["mrr"].value == 0.5
    assert reference.metrics["cond_recall_at_1"].value == 1
    assert reference.metrics["iou"].value == pytest.approx(1)
    assert chance(SAMPLES) == 0.5


def test_no_reference_box_at_all_is_no_row() -> None:
    assert [row.method for row in metrics_table(headroom(SAMPLES[:1], ColourScorer()))] == ["full"]


def test_raw_pixels_rank_the_same_pool(tmp_path: Path) -> None:
    for name, colour in (("green", GREEN), ("red", RED)):
        Image.new("RGB", (20, 30), colour).save(tmp_path / f"{name}.png")
    scorer = PixelScorer()
    again = list(reembed(SAMPLES, scorer, tmp_path))
    assert [s.candidate_ids for s in again] == [s.candidate_ids for s in SAMPLES]
    assert again[0].candidates.shape == (2, scorer.dim) and again[0].full.shape == (scorer.dim,)
    assert np.allclose(np.linalg.norm(again[0].candidates, axis=1), 1)
    full, reference = metrics_table(headroom(again, scorer, ", raw pixels"))
    assert full.method == "full, raw pixels" and full.metrics["recall_at_1"].value == 0
    assert reference.metrics["recall_at_1"].value == 1
    (tmp_path / "red.png").unlink()
    with pytest.raises(UserError, match="red.png"):
        list(reembed(SAMPLES, scorer, tmp_path))


def test_pixel_scorer_sees_shape_and_not_brightness() -> None:
    scorer = load_scorer("pixels")
    ramp = Image.linear_gradient("L").convert("RGB")
    darker = ramp.point(lambda value: value // 2)
    same, flipped = (
        scorer.embed_images([ramp, darker, ramp.rotate(180)])[1:] @ (scorer.embed_images([ramp])[0])
    )
    assert same > 0.99 and flipped < -0.99
    grey = scorer.embed_images([Image.new("RGB", (9, 5), (128, 128, 128))])
    assert torch.isfinite(grey).all()
    assert scorer.embed_images([]).shape == (0, scorer.dim)


def test_command_prints_and_writes(builtin_shards: Path, builtin_benchmark: Path, tmp_path, capsys):
    out = tmp_path / "deep" / "premise.json"
    premise(builtin_shards, root=builtin_benchmark, split="val", scorer="pixels", out=out)
    printed = capsys.readouterr().out
    assert "pool recall" in printed and "random order" in printed
    rows = {row["method"]: row for row in json.loads(out.read_text())}
    assert list(rows) == ["full", "reference", "full, raw pixels", "reference, raw pixels"]
    index = load_index(builtin_shards, "val")
    assert all(row["n"] == index.n_samples for row in rows.values())
    measured = rows["full"]["metrics"]["cond_recall_at_1"]["value"]
    assert measured == pytest.approx(index.full_cond_recall_at_1)
    assert [path.name for path in out.parent.iterdir()] == ["premise.json"]


def test_refusals(builtin_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        premise(builtin_shards, root=tmp_path / "nowhere", scorer="pixels")
    with pytest.raises(UserError, match="no index"):
        premise(tmp_path)
    other = tmp_path / "other.safetensors"
    save_file(DualEncoder().state_dict(), other)
    with pytest.raises(UserError, match="embeddings were made with scorer"):
        premise(builtin_shards, scorer=str(other))
    with pytest.raises(UserError, match="cannot be written"):
        premise(builtin_shards, split="val", scorer="pixels", out=other / "premise.json")
    cut = tmp_path / "cut"
    shutil.copytree(builtin_shards, cut)
    tar = cut / "test-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-4096])
    with pytest.raises(UserError, match="truncated"):
        premise(cut, scorer="pixels")


def test_samples_are_read_once_in_order(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, samples_per_shard=2)
    index = load_index(folder, "test")
    keys = [s.key for s in read_samples(folder, index)]
    assert len(keys) == len(set(keys)) == index.n_samples and keys == sorted(keys)
