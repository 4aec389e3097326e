"""Rows of requests: answered together, refused alone, bounded."""

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from written_policy import (
    ANSWERS,
    FULL,
    ROW,
    SOLID,
    SQUARE_PX,
    answering,
    colour_reranker,
    encoded,
    scene,
)

from regionr1 import RegionReranker
from regionr1.errors import UserError
from regionr1.serve.limits import Busy, Limits
from regionr1.serve.service import FIELDS, Images, Service


def png(width: int, height: int) -> str:
    """A picture of many pixels in few bytes."""
    return encoded(Image.new("L", (width, height)))


@pytest.fixture(scope="module")
def reranker(tiny_policy: Path) -> RegionReranker:
    policy = answering(tiny_policy, {**ANSWERS, "all of it <|image_pad|>": FULL})
    return RegionReranker(policy, colour_reranker(), batch_size=4)


@pytest.fixture(scope="module")
def service(reranker) -> Service:
    return Service(reranker, Limits())


def ask(service: Service, *rows: object) -> list[dict]:
    return [answer.result(timeout=60) for answer in service.submit(rows)]


def test_answers(service) -> None:
    without = {key: value for key, value in ROW.items() if key != "candidates"}
    region, full, invalid = ask(
        service, ROW, {**without, "question": "all?"}, {**ROW, "question": "what?"}
    )
    assert region["box"] == list(SQUARE_PX) and region["ranking"] == [0, 1, 2]
    policy = service.reranker.policy
    p_full = policy.p_full([scene()] * 3, ["red?", "all?", "what?"]).tolist()
    found = [answer["p_full"] for answer in (region, full, invalid)]
    assert found == pytest.approx(p_full, rel=1e-3), "batches of other sizes differ in last digits"
    assert 0 < region["p_region"] < 1
    assert full["decision"] == "FULL" and full["ranking"] is full["box"] is full["error"] is None
    assert invalid["decision"] == "INVALID" and invalid["ranking"] is None
    assert tuple(region) == FIELDS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None}, "row 1, image is missing"),
        ({"image": "%%%"}, "row 1, image is not base64"),
        ({"image": "\u00fc"}, "row 1, image is not base64"),
        (
            {"image": base64.b64encode(b"no image").decode()},
            "row 1, image: image cannot be decoded",
        ),
        ({"image": "A" * 28_000_004}, "image, characters: 28,000,004, above the server's limit"),
        ({"question": " "}, "row 1: question is missing"),
        ({"question": 7}, "row 1: question is missing"),
        ({"question": "a" * 2_001}, "row 1, characters of the question: 2,001, above"),
        ({"question": "all of it <|image_pad|>"}, "holds the vision token <|image_pad|>: remove"),
        ({"candidates": []}, "row 1: candidates is empty"),
        ({"candidates": "AAAA"}, "row 1: candidates is no list"),
        ({"candidates": 3}, "row 1: candidates is no list"),
        ({"candidates": ["AAAA"]}, "row 1, candidate 0"),
        ({"candidates": [encoded(SOLID[0]), None]}, "row 1, candidate 1 is missing"),
        ({"candidates": ["A"] * 201}, "row 1, candidates: 201, above the server's limit of 200"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_one_bad_row_fails_alone(service, change, words) -> None:
    good, bad, after = ask(service, ROW, {**ROW, **change}, ROW)
    assert words in bad.pop("error") and set(bad.values()) == {None}
    assert good["ranking"] == after["ranking"] == [0, 1, 2]


def test_a_row_that_is_no_object_and_one_that_breaks_the_model(service, monkeypatch) -> None:
    assert "row 0 is no object" in ask(service, "row")[0]["error"]
    plain = service.reranker.crop

    def crop(images, questions):
        if "green?" in questions:
            raise RuntimeError("weights of the secret layer")
        return plain(images, questions)

    monkeypatch.setattr(service.reranker, "crop", crop)
    good, bad = ask(service, ROW, {**ROW, "question": "green?"})
    assert good["decision"] == "REGION"
    assert bad["error"] == "this row could not be answered; the server's log says why"


def test_pixels_are_bounded_by_image_and_by_request(reranker) -> None:
    service = Service(reranker, Limits(image_pixels=20_000, pixels=40_000))
    for row, words in (
        (
            {**ROW, "image": png(200, 150)},
            "row 0, image: image has 200x150 pixels, above the limit",
        ),
        ({**ROW, "candidates": [png(150, 100)] * 2}, "row 0, candidate 1: image has 150x100"),
    ):
        assert words in ask(service, row)[0]["error"]
    assert Images(Limits()).decode(ROW["image"], "here").size == scene().size


def test_requests_are_bounded(reranker, monkeypatch) -> None:
    service = Service(reranker, Limits(rows=4, waiting=3))
    with pytest.raises(UserError, match="rows of the request: 5, above the server's limit of 4"):
        service.submit([ROW] * 5)
    go, started, plain = threading.Event(), threading.Event(), reranker.crop

    def crop(images, questions):
        started.set()
        assert go.wait(60)
        return plain(images, questions)

    monkeypatch.setattr(reranker, "crop", crop)
    first = service.submit([ROW])
    assert started.wait(60)
    waiting = service.submit([ROW] * 3)
    with pytest.raises(Busy, match="3 rows wait for an answer already; try again"):
        service.submit([ROW])
    go.set()
    assert all(answer.result(60)["decision"] == "REGION" for answer in [*first, *waiting])


@pytest.mark.parametrize("field", ["rows", "waiting", "body_bytes"])
def test_limits_below_one_are_refused(field) -> None:
    with pytest.raises(UserError, match=f"limits.{field} is 0: set it to 1 or more"):
        Limits(**{field: 0})


def test_concurrent_requests_are_decided_together(reranker, monkeypatch) -> None:
    """While a batch is decided, the requests of others gather; each gets its own answer."""
    service = Service(reranker, Limits(), wait_s=0.05)
    plain = reranker.crop

    def slowly(images, questions):
        time.sleep(0.1)
        return plain(images, questions)

    monkeypatch.setattr(reranker, "crop", slowly)
    questions = [*ANSWERS] * 4
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda q: ask(service, {**ROW, "question": q})[0], questions))
    decisions = {"red?": "REGION", "green?": "REGION", "all?": "FULL", "what?": "INVALID"}
    assert [answer["decision"] for answer in answers] == [decisions[q] for q in questions]
    assert sum(service.batches) == 16 and max(service.batches) == 4 and len(service.batches) <= 6


def test_large_images_are_not_decoded_together(reranker, monkeypatch) -> None:
    service = Service(reranker, Limits(batch_pixels=40_000), wait_s=0.2)
    ask(service, *[{**ROW, "candidates": None}] * 4)  # 16,384 pixels each
    assert service.batches == [2, 2]
