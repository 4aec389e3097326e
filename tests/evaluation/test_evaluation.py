"""Evaluator: rankings by hand, and INVALID as a miss everywhere."""

import math

import pytest
import torch
from evqa_files import COLOURS, ColourScorer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from written_policy import FULL, GREEN, NONSENSE, RED, SQUARE_PX, colour_batch, module, written

from regionr1.algorithm.answers import format_region
from regionr1.algorithm.boxes import CropPrior
from regionr1.evaluation.table import METRICS, metrics_table
from regionr1.evaluation.views import SOFT_TEMPERATURE, Evaluator, random_box
from regionr1.training.metrics import ViewMetrics

BY_FULL, BY_RED, BY_GREEN = [
    names.split() for names in ("green red blue", "red green blue", "green blue red")
]
METHODS = [
    *("full", "centre_35", "centre", "centre_70", "random", "warm_start", "warm_start_region"),
    *("policy", "policy_region", "better_of"),
]


@pytest.fixture
def policy(tiny_policy):
    policy = written(tiny_policy)
    policy.greedily = {  # free, forced to REGION; adapter off: free, forced to REGION
        "where is red?": (RED, RED, GREEN, GREEN),
        "where is green?": (FULL, RED, NONSENSE, RED),
        "where is purple?": ("I cannot say", NONSENSE, FULL, GREEN),
    }
    return policy


@pytest.fixture
def evaluator(policy) -> Evaluator:
    return module(policy).evaluator


@pytest.fixture
def found(evaluator):
    outcomes = evaluator.outcomes(colour_batch())
    return {(outcome.method, outcome.gold_ids[0]): outcome for outcome in outcomes}


def test_a_crop_that_several_methods_choose_is_embedded_once(evaluator, monkeypatch) -> None:
    embedded = []
    plain = evaluator.reranker.scorer.embed_images
    monkeypatch.setattr(
        evaluator.reranker.scorer,
        "embed_images",
        lambda views: embedded.extend(views) or plain(views),
    )
    outcomes = evaluator.outcomes(colour_batch())
    chosen = {(o.key, o.box_unit) for o in outcomes if o.box_unit is not None}
    chosen.add(("test-1", (0.0, 0.0, 1.0, 1.0)))  # has no reference box, so its row is dropped
    assert len(embedded) == len(chosen) < sum(o.box_unit is not None for o in outcomes)


def test_queries_are_encoded_once_for_the_policy_before_and_after(policy, monkeypatch) -> None:
    batch, encoded = colour_batch(), []
    plain = policy.encode
    monkeypatch.setattr(
        policy, "encode", lambda *queries: encoded.append(queries) or plain(*queries)
    )
    module(policy).evaluator.outcomes(batch)
    assert encoded == [(batch.images, batch.questions)]


def test_every_method_answers_every_query_once(evaluator) -> None:
    outcomes = evaluator.outcomes(colour_batch())
    rows = [(outcome.method, outcome.key) for outcome in outcomes]
    keys = ["test-0", "test-1", "test-2"]
    assert rows[:30] == [(method, key) for method in METHODS for key in keys]
    assert rows[30:] == [("reference", "test-0"), ("reference", "test-2")]  # green has no box


@pytest.mark.parametrize(
    ("method", "gold", "decision", "ranking", "rank"),
    [
        ("full", "red", "FULL", BY_FULL, 2),
        ("full", "green", "FULL", BY_FULL, 1),
        ("full", "purple", "FULL", BY_FULL, math.inf),
        ("policy", "red", "REGION", BY_RED, 1),
        ("policy", "green", "FULL", BY_FULL, 1),
        ("policy", "purple", "INVALID", None, math.inf),
        ("policy_region", "green", "REGION", BY_RED, 2),
        ("policy_region", "purple", "INVALID", None, math.inf),
        ("warm_start", "red", "REGION", BY_GREEN, 3),
        ("warm_start", "green", "INVALID", None, math.inf),
        ("warm_start", "purple", "FULL", BY_FULL, math.inf),
        ("warm_start_region", "red", "REGION", BY_GREEN, 3),
        ("warm_start_region", "green", "REGION", BY_RED, 2),
        ("warm_start_region", "purple", "REGION", BY_GREEN, math.inf),
        ("reference", "red", "REGION", BY_RED, 1),
        ("reference", "purple", "REGION", BY_GREEN, math.inf),
    ],
)
def test_outcomes_by_hand(found, method, gold, decision, ranking, rank) -> None:
    outcome = found[method, gold]
    assert (outcome.decision, outcome.ranking, outcome.rank) == (decision, ranking, rank)
    assert outcome.ndcg == pytest.approx(0 if rank == math.inf else 1 / math.log2(1 + rank))
    assert outcome.pool_has_positive == (gold != "purple")
    assert (outcome.box_unit is None) == (decision != "REGION")


def test_boxes_and_their_overlap(found) -> None:
    assert found["policy", "red"].box_unit == (0, 0, 0.375, 0.375)
    assert found["policy", "red"].iou == 1.0
    assert found["warm_start", "red"].iou == 0.0
    assert found["policy_region", "green"].iou is None  # nothing to compare with
    assert found["centre", "red"].box_unit == (0.25, 0.25, 0.75, 0.75)
    assert found["centre", "red"].iou == pytest.approx(16**2 / (64**2 + 48**2 - 16**2))
    assert found["full", "red"].iou is None
    assert found["centre_70", "red"].box_unit == pytest.approx((0.15, 0.15, 0.85, 0.85), abs=0.01)
    assert found["centre_35", "red"].box_unit == pytest.approx(
        (0.325,) * 2 + (0.675,) * 2, abs=0.01
    )


def test_margins_and_names_by_hand(evaluator, found) -> None:
    batch = colour_batch()
    cosines = (batch.candidates[0, :3] @ batch.full_embedding[0]).tolist()  # red, green, blue
    assert found["full", "red"].margin == pytest.approx(cosines[0] - cosines[1])
    assert found["full", "green"].margin == pytest.approx(cosines[1] - cosines[0])
    assert found["full", "purple"].margin is None, "its pool has no positive"
    assert found["warm_start", "green"].margin is None, "INVALID ranks nothing"
    assert found["policy", "red"].margin > 0 > found["warm_start", "red"].margin
    assert [found["policy", gold].data_id for gold in ("red", "green")] == batch.data_ids[:2]


def test_p_full_is_the_policys_own_whatever_it_was_forced_to(policy, evaluator, found) -> None:
    batch = colour_batch()
    own, before = (
        policy.p_full(batch.images, batch.questions, use_adapter).tolist()
        for use_adapter in (True, False)
    )
    assert own != before  # the adapter is not idle
    golds = ("red", "green", "purple")
    for method, wanted in (
        *(("policy", own), ("policy_region", own)),
        *(("warm_start", before), ("warm_start_region", before)),
    ):
        assert [found[method, gold].p_full for gold in golds] == pytest.approx(wanted), method
    for method in ("full", "centre", "random", "better_of"):
        assert all(found[method, gold].p_full is None for gold in golds), method
    rows = {row.method: row.metrics["p_full"].value for row in metrics_table(found.values())}
    assert rows["policy"] == pytest.approx(sum(own) / 3) and rows["full"] is None
    predicted = evaluator.predictions(batch)
    assert [p.p_full for p in predicted] == pytest.approx(own)
    assert [p.p_full_warm_start for p in predicted] == pytest.approx(before)


def test_soft_fusion_weighs_both_views_by_how_probable_they_are(policy) -> None:
    batch = colour_batch()
    without = module(policy).evaluator
    assert "policy_soft" not in {o.method for o in without.outcomes(batch)}
    evaluator = module(policy, soft_fusion=True).evaluator
    rows = {o.gold_ids[0]: o for o in evaluator.outcomes(batch) if o.method == "policy_soft"}
    assert rows["purple"].ranking is None and rows["purple"].decision == "INVALID"
    assert rows["red"].decision == "REGION" and rows["green"].decision == "FULL"

    full, (chosen, region) = evaluator.full(batch), evaluator.policy_both(batch)
    for certain, view in ((1.0, full), (0.0, region)):
        chosen.p_full = torch.full((3,), certain)
        scores = evaluator.soft(batch, full, chosen, region).scores
        assert scores[:2, :3] == pytest.approx(view.scores[:2, :3], abs=1e-3)
    chosen.p_full = torch.full((3,), 0.5)
    mixed = evaluator.soft(batch, full, chosen, region).scores[0, :3]
    t = SOFT_TEMPERATURE
    both = torch.stack([full.scores[0, :3], region.scores[0, :3]])
    assert mixed == pytest.approx(t * ((both / t).exp().mean(0)).log(), abs=1e-5)


def test_better_of_is_the_better_of_full_and_region_for_each_query(found) -> None:
    assert found["better_of", "red"].decision == "REGION"
    assert found["better_of", "green"].decision == "FULL"
    assert found["better_of", "purple"].decision == "FULL"  # a tie, and never INVALID
    for gold in ("red", "green", "purple"):
        full, region = found["full", gold], found["policy_region", gold]
        assert found["better_of", gold].rank == min(full.rank, region.rank)


def test_invalid_is_a_miss_in_every_metric_and_never_the_full_image(tiny_policy) -> None:
    policy = written(tiny_policy)
    policy.greedily = {"where is green?": (NONSENSE,) * 4}
    batch = colour_batch(["green", "green"])  # the full image would be right
    batch.reference_box_unit = torch.tensor([[0.5, 0.5, 1, 1]] * 2)
    evaluator = module(policy).evaluator
    rows = {row.method: row.metrics for row in metrics_table(evaluator.outcomes(batch))}
    for method in ("policy", "policy_region", "warm_start", "warm_start_region"):
        values = {name: rows[method][name].value for name in METRICS}
        assert values.pop("iou") is None and values.pop("p_full") > 0
        assert values.pop("invalid_rate") == 1.0
        assert set(values.values()) == {0.0}, values
    assert rows["full"]["recall_at_1"].value == rows["better_of"]["recall_at_1"].value == 1.0

    metrics = ViewMetrics()
    forced = evaluator.policy(batch, force_region=True)
    metrics.update(batch, evaluator.full(batch), evaluator.policy(batch), forced)
    logged = {name: float(metric.compute()) for name, metric in metrics.as_dict().items()}
    assert math.isnan(logged.pop("val/iou"))
    assert math.isnan(logged.pop("val/region_rate_crop_better"))  # it never is: it is no crop
    assert math.isnan(logged.pop("val/decision_auroc"))  # so there is nothing to tell apart
    assert logged.pop("val/better_of_cond_recall_at_1") == 1.0
    assert logged.pop("val/invalid_rate") == logged.pop("val/full_cond_recall_at_1") == 1.0
    assert set(logged.values()) == {0.0}, logged

    for prediction in evaluator.predictions(batch):
        assert prediction.decision == "INVALID" and prediction.box_px is None
        assert prediction.ranking is None and prediction.scores is None
        assert prediction.ranking_full == BY_FULL


def test_validation_metrics_by_hand(evaluator) -> None:
    batch, metrics = colour_batch(), ViewMetrics()
    forced = evaluator.policy(batch, force_region=True)
    chosen = evaluator.policy(batch)
    metrics.update(batch, evaluator.full(batch), chosen, forced)
    p_full = dict(zip(("red", "green", "purple"), chosen.p_full.tolist(), strict=True))
    logged = {name: float(metric.compute()) for name, metric in metrics.as_dict().items()}
    assert logged == pytest.approx(
        {
            "val/recall_at_1": 2 / 3,
            "val/cond_recall_at_1": 1.0,  # purple's pool has no positive
            "val/full_cond_recall_at_1": 1 / 2,
            "val/mrr": 2 / 3,
            "val/ndcg": 2 / 3,
            "val/region_rate": 1 / 3,
            "val/invalid_rate": 1 / 3,
            "val/iou": 1.0,
            "val/always_crop_cond_recall_at_1": 1 / 2,  # red, not green
            "val/better_of_cond_recall_at_1": 1.0,
            "val/region_rate_crop_better": 1.0,  # red
            "val/region_rate_full_better": 0.0,  # green
            "val/decision_auroc": float(p_full["red"] < p_full["green"]),
        }
    )


def test_predictions_are_in_original_pixels(tiny_policy) -> None:
    """The image is larger than what the model sees, and not by one factor."""
    policy = written(tiny_policy)
    image = Image.new("RGB", (500, 260), COLOURS[1])
    square = (125, 65, 250, 195)
    image.paste(COLOURS[0], square)
    batch = colour_batch(["red"])
    batch.images, batch.widths, batch.heights = [image], [500], [260]
    seen_h, seen_w = policy.encode(batch.images, ["?"]).seen_hw[0].tolist()
    assert seen_w * seen_h <= 64 * 64 < 500 * 260 and seen_w / 500 != seen_h / 260
    unit = torch.tensor(square) / torch.tensor([500, 260, 500, 260])
    seen = (unit * torch.tensor([seen_w, seen_h, seen_w, seen_h])).round()
    answer = format_region([int(value) for value in seen])
    policy.greedily = {"where is red?": (answer,) * 4}
    (prediction,) = module(policy).evaluator.predictions(batch)
    for got, wanted, pixel in zip(
        prediction.box_px, square, [500 / seen_w, 260 / seen_h] * 2, strict=True
    ):
        assert abs(got - wanted) <= pixel / 2 + 1  # rounding to whole seen pixels, then outward
    assert prediction.decision == "REGION" and prediction.ranking == BY_RED
    crop = ColourScorer().embed_images([image.crop(prediction.box_px)])[0]
    cosines = (batch.candidates[0, :3] @ crop).tolist()
    assert prediction.scores == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)


def test_predictions_score_an_entity_by_its_best_picture(evaluator) -> None:
    batch = colour_batch(["red"])
    batch.candidate_ids = [["red", "green", "red"]]  # the blue picture now shows red, badly
    (prediction,) = evaluator.predictions(batch)
    assert prediction.box_px == SQUARE_PX
    assert prediction.ranking == ["red", "green"]
    assert prediction.scores == pytest.approx([1.0, -10400 / math.sqrt(24900 * 19400)], abs=0.02)


def test_padding_of_the_prior_widens_what_is_cut(policy) -> None:
    evaluator = module(policy, crop_prior=CropPrior(padding=0.25)).evaluator
    views = evaluator.policy(colour_batch(["red"]))
    assert views.crops_px == [(0, 0, 60, 60)]


def test_the_gallery_gets_pixels(evaluator) -> None:
    batch = colour_batch()
    examples = evaluator.examples(batch, evaluator.full(batch), evaluator.policy(batch))
    assert [e.box_px for e in examples] == [SQUARE_PX, None, None]
    assert [e.reference_box_px for e in examples] == [SQUARE_PX, None, (64, 64, 128, 128)]
    assert [(e.rank_full, e.rank_view) for e in examples[:2]] == [(2.0, 1.0), (1.0, 1.0)]
    assert examples[2].decision == "INVALID" and examples[2].rank_view == math.inf


def test_a_random_box_depends_on_the_key_alone() -> None:
    boxes = [random_box(f"test-{i:07d}-0") for i in range(200)]
    torch.manual_seed(7)
    assert [random_box(f"test-{i:07d}-0") for i in range(200)] == boxes
    assert len(set(boxes)) == 200
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        assert 0.3 - 1e-6 <= x2 - x1 <= 0.7 + 1e-6 and 0.3 - 1e-6 <= y2 - y1 <= 0.7 + 1e-6
    assert sum(x1 + x2 for x1, _, x2, _ in boxes) / 400 == pytest.approx(0.5, abs=0.05)


@given(st.text(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_random_box_has_the_size_asked_for(key, width, height) -> None:
    x1, y1, x2, y2 = random_box(key, (width, height))
    assert (x2 - x1, y2 - y1) == pytest.approx((width, height))
    assert min(x1, y1) >= 0 and max(x2, y2) <= 1 + 1e-9
    assert random_box(key, (width, height)) == (x1, y1, x2, y2)


def test_random_crops_are_as_large_as_the_policys(found) -> None:
    for gold in ("red", "green"):  # the policy, forced, crops 48 x 48 of 128 x 128 pixels
        x1, y1, x2, y2 = found["random", gold].box_unit
        # whole pixels are cut, outward
        assert 0.375 <= x2 - x1 <= 0.375 + 1 / 128 and 0.375 <= y2 - y1 <= 0.375 + 1 / 128
    assert found["policy_region", "purple"].box_unit is None  # no size to follow
    x1, _, x2, _ = found["random", "purple"].box_unit
    assert 0.3 <= x2 - x1 <= 0.7 + 2 / 128
