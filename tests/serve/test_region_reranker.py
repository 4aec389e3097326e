"""The trained policy as a library class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written_policy import ANSWERS, SOLID, SQUARE_PX, answering, colour_reranker, scene

from regionr1 import RegionReranker
from regionr1.algorithm.boxes import CropPrior
from regionr1.errors import UserError
from regionr1.serve.region_reranker import find_device


@pytest.fixture(scope="module")
def reranker(tiny_policy: Path) -> RegionReranker:
    return RegionReranker(answering(tiny_policy, ANSWERS), colour_reranker(), batch_size=3)


def test_one_query(reranker) -> None:
    crop = reranker.crop(scene(), "red?")
    assert (crop.decision, crop.box_px, crop.view.size) == ("REGION", SQUARE_PX, (48, 48))
    found = reranker.rerank(scene(), "red?", SOLID)
    assert found.order == [0, 1, 2] and found.scores[0] == pytest.approx(1.0, abs=1e-5)
    assert reranker.rerank(scene(), "green?", SOLID).order[0] == 1
    full = reranker.rerank(scene(), "all?", SOLID)
    assert (full.crop.decision, full.crop.box_px, full.order) == ("FULL", None, [1, 0, 2])


def test_an_answer_that_cannot_be_read_ranks_nothing(reranker) -> None:
    found = reranker.rerank(scene(), "what?", SOLID)
    assert (found.crop.decision, found.crop.view, found.order) == ("INVALID", None, None)


def test_a_batch_is_what_its_queries_are_one_by_one(reranker) -> None:
    questions = [*ANSWERS] * 2
    images = [scene()] * len(questions)
    pools = [SOLID[: 1 + i % 3] for i in range(len(questions))]
    together = reranker.rerank(images, questions, pools)
    for query, found in zip(zip(images, questions, pools, strict=True), together, strict=True):
        alone = reranker.rerank(*query)
        assert (alone.crop.box_px, alone.order) == (found.crop.box_px, found.order)
    assert [crop.decision for crop in reranker.crop(images, questions)][:4] == [
        *("REGION", "REGION", "FULL", "INVALID")
    ]


def test_candidates_may_have_texts_or_be_embedded_before(reranker) -> None:
    with_text = [(image, "a colour") for image in SOLID]
    expected = reranker.rerank(scene(), "red?", SOLID)
    assert reranker.rerank(scene(), "red?", with_text) == expected
    assert reranker.rerank(scene(), "red?", reranker.embed(SOLID)).order == expected.order


def test_images_are_seen_as_in_training(reranker) -> None:
    """Transparency lies on white there, and orientation is applied."""
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    white = Image.new("RGB", (8, 8), "white")
    assert torch.equal(reranker.embed([clear]), reranker.embed([white]))
    assert reranker.crop(clear, "all?").view.getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (8, 4))
    turned.getexif()[0x0112] = 6  # a quarter turn
    assert reranker.crop(turned, "all?").view.size == (4, 8)
    vectors = reranker.embed(SOLID)
    assert torch.equal(reranker.embed(vectors.numpy()), vectors)


def test_padding_is_part_of_the_crop(reranker) -> None:
    padded = RegionReranker(reranker.policy, reranker.reranker, CropPrior(padding=0.25))
    assert padded.crop(scene(), "red?").box_px == (0, 0, 60, 60)


@pytest.mark.parametrize(
    ("images", "questions", "candidates", "words"),
    [
        (scene(), "red?", [], "no candidates"),
        ([scene()], ["red?", "red?"], [SOLID], "1 images and 2 questions"),
        ([], [], [], "need as many"),
        ([scene()], ["red?"], [], "1 queries but 0 lists"),
        (scene(), ["red?"], SOLID, "one image and one question"),
        (scene(), "red?", torch.ones(2, 5), r"\(2, 5\), expected \(K, 12\)"),
        (scene(), "red?", np.ones((2, 5)), r"\(2, 5\), expected \(K, 12\)"),
        (["a.jpg"], ["red?"], [SOLID], "must be a PIL image, not a str"),
        ("a.jpg", "red?", SOLID, "must be a PIL image, not a str: open it"),
        (scene(), "red?", ["a.jpg"], "must be a PIL image, not a str"),
        (scene(), "red?", SOLID[0], "candidates of query 0 are a Image: put them into a list"),
        (scene(), "red?", "a.jpg", "candidates of query 0 are a str: open the images"),
        (scene(), "red?", iter(SOLID), "are a list_iterator: put them into a list"),
        ([scene()], ["red?"], SOLID[:1], "candidates of query 0 are a Image"),
        ([scene()], ["red?"], SOLID[0], "candidates are a Image: put them into a list"),
        (scene(), "red?", [None], "candidate 0 is None and its key None is not remembered"),
    ],
)
def test_bad_queries(reranker, images, questions, candidates, words) -> None:
    with pytest.raises(UserError, match=words):
        reranker.rerank(images, questions, candidates)


def brightness(view: Image.Image, question: str, candidates: list[str]) -> list[float]:
    """A scorer of one's own: how much of its colour the view has."""
    assert question in ANSWERS
    seen = np.asarray(view).reshape(-1, 3).mean(0)
    return [seen[["red", "green", "blue"].index(name)] for name in candidates]


def test_a_policy_alone_in_front_of_any_scoring_function(reranker) -> None:
    alone = RegionReranker(reranker.policy, None)
    names = ["green", "blue", "red"]
    assert alone.crop(scene(), "red?").decision == "REGION"
    found = alone.rerank(scene(), "red?", names, score=brightness)
    assert found.order[0] == 2 and found.scores == sorted(found.scores, reverse=True)
    both = alone.rerank([scene()] * 2, ["all?", "what?"], [names] * 2, score=brightness)
    assert both[0].order[0] == 0 and both[1].order is None
    with pytest.raises(
        UserError, match="no scorer was loaded .* give rerank your scoring function"
    ):
        alone.rerank(scene(), "red?", SOLID)
    for wrong in ([1.0], [1.0, 2.0, float("nan")], [[1.0], [2.0], [3.0]]):
        with pytest.raises(UserError, match="your scoring function gave .* for 3 candidates"):
            alone.rerank(scene(), "red?", names, score=lambda *_, wrong=wrong: wrong)


def test_embeddings_are_remembered_by_key_and_no_more_than_asked(reranker, monkeypatch) -> None:
    kept = RegionReranker(reranker.policy, reranker.reranker, remember=3)
    expected = kept.rerank(scene(), "red?", SOLID)
    first = kept.rerank(scene(), "red?", SOLID, keys=["r", "g", "b"])
    assert first.order == expected.order
    embedded = []
    plain = kept.reranker.scorer.embed_candidates
    monkeypatch.setattr(
        type(kept.reranker.scorer),
        "embed_candidates",
        lambda self, images, texts: embedded.append(len(images)) or plain(images, texts),
    )
    again = kept.rerank(scene(), "red?", [None, None, SOLID[2]], keys=["r", "g", "b"])
    assert (again.order, again.scores) == (first.order, first.scores) and embedded == []
    kept.embed([Image.new("RGB", (8, 8), "white")], ["w"])
    assert len(kept.memory) == 3 and "r" not in kept.memory, "the longest unused is forgotten"
    two = kept.rerank([scene()] * 2, ["red?"] * 2, [SOLID, [None]], keys=[["r", "g", "b"], ["b"]])
    assert two[0].order == first.order and embedded == [1, 1]
    with pytest.raises(UserError, match="its key 'w' is not remembered: give its image"):
        kept.embed([None], ["w"])
    with pytest.raises(UserError, match="3 candidates but 1 keys"):
        kept.embed(SOLID, ["r"])
    with pytest.raises(UserError, match="2 queries but 2 lists of candidates and 1 of keys"):
        kept.rerank([scene()] * 2, ["red?"] * 2, [SOLID, SOLID], keys=[["r", "g", "b"]])


def test_both_probabilities_of_the_decision(reranker) -> None:
    crop = reranker.crop(scene(), "all?")
    assert crop.p_full == pytest.approx(float(reranker.policy.p_full([scene()], ["all?"])))
    assert 0 < crop.p_region < 1 and crop.p_full + crop.p_region < 1


def test_devices() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("nonsense", "cuda:77"):
        with pytest.raises(UserError, match=f"device '{name}' is not to be had here; take 'cpu'"):
            find_device(name)
