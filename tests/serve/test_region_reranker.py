"""The trained policy outside the platform: library class, exported model, server."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow_server import free_port
from PIL import Image
from quickstart_run import options, runs
from written_policy import (
    COLOURS,
    FULL,
    GREEN,
    NONSENSE,
    RED,
    SQUARE_PX,
    colour_reranker,
    scene,
    written,
)

from regionr1 import RegionReranker
from regionr1.algorithm.boxes import CropPrior
from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.serve.limits import Limits
from regionr1.serve.served_model import Images, ServedModel

SOLID = [Image.new("RGB", (8, 8), COLOURS[i]) for i in range(3)]  # red, green, blue
ANSWERS = {"red?": RED, "green?": GREEN, "all?": FULL, "what?": NONSENSE}


def encoded(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def reranker(tiny_policy: Path) -> RegionReranker:
    policy = written(tiny_policy)
    policy.greedily = {question: (answer,) * 4 for question, answer in ANSWERS.items()}
    return RegionReranker(policy, colour_reranker(), batch_size=3)


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
        (scene(), "red?", ["a.jpg"], "must be a PIL image, not a str"),
    ],
)
def test_bad_queries(reranker, images, questions, candidates, words) -> None:
    with pytest.raises(UserError, match=words):
        reranker.rerank(images, questions, candidates)


@pytest.fixture
def served(reranker) -> ServedModel:
    model = ServedModel()
    model.limits = Limits()
    model.reranker = reranker
    return model


def test_served_answers(served) -> None:
    pool = [encoded(image) for image in SOLID]
    rows = pd.DataFrame({
        "image": [encoded(scene())] * 3,
        "question": ["red?", "all?", "what?"],
        "candidates": [pool, None, pool],
    })  # fmt: skip
    region, full, invalid = served.predict(None, rows)
    assert region["box"] == list(SQUARE_PX) and region["ranking"] == [0, 1, 2]
    policy = served.reranker.policy
    p_full = policy.p_full([scene()] * 3, ["red?", "all?", "what?"]).tolist()
    found = [row.pop("p_full") for row in (region, full, invalid)]
    assert found == pytest.approx(p_full, rel=1e-3), "batches of other sizes differ in last digits"
    assert full == {"decision": "FULL", "box": None, "ranking": None, "scores": None}
    assert invalid["decision"] == "INVALID" and invalid["ranking"] is None
    assert json.dumps(region["scores"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None}, "row 0, image is missing"),
        ({"image": "%%%"}, "row 0, image is not base64"),
        (
            {"image": base64.b64encode(b"no image").decode()},
            "row 0, image: image cannot be decoded",
        ),
        ({"image": "A" * 28_000_004}, "image, characters: 28,000,004, above the server's limit"),
        ({"question": " "}, "row 0: question is missing"),
        ({"candidates": []}, "row 0: candidates is empty"),
        ({"candidates": ["AAAA"]}, "row 0, candidate 0"),
    ],
)
def test_malformed_rows(served, change, words) -> None:
    row = {"image": encoded(scene()), "question": "red?", "candidates": [encoded(SOLID[0])]}
    with pytest.raises(MlflowException, match=words) as caught:
        served.predict(None, pd.DataFrame([{**row, **change}]))
    assert caught.value.get_http_status_code() == 400
    assert Images(Limits()).decode(row["image"], "here").size == scene().size


def png(width: int, height: int) -> str:
    """A picture of many pixels in few bytes."""
    out = io.BytesIO()
    Image.new("L", (width, height)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(
    ("rows", "change", "words"),
    [
        (5, {}, "rows of the request: 5, above the server's limit of 4"),
        (1, {"question": "a" * 41}, "row 0, characters of the question: 41, above"),
        (1, {"candidates": [png(2, 2)] * 4}, "row 0, candidates: 4, above the server's limit of 3"),
        (1, {"image": png(200, 150)}, "row 0, image: image has 200x150 pixels, above the limit"),
        (1, {"candidates": [png(150, 100)] * 2}, "row 0, candidate 1: image has 150x100 pixels"),
        (1, {"image": "\u00fc"}, "row 0, image is not base64"),
    ],
)
def test_a_request_is_bounded(served, rows, change, words) -> None:
    """Nothing of the request comes back in the message."""
    served.limits = Limits(rows=4, candidates=3, question=40, image_pixels=20_000, pixels=40_000)
    row = {"image": encoded(scene()), "question": "red?", "candidates": [encoded(SOLID[0])]}
    with pytest.raises(MlflowException, match=words) as caught:
        served.predict(None, pd.DataFrame([{**row, **change}] * rows))
    assert caught.value.get_http_status_code() == 400
    assert len(str(caught.value)) < 200


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="limits.rows is 0: set it to 1 or more"):
        Limits(rows=0)


def post(port: int, body: bytes, kind: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": kind}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_export_load_and_serve(workspace, builtin_shards, tiny_policy, capsys) -> None:
    args = options(builtin_shards, tiny_policy, steps=1)
    assert main(["fit", *args, "--model.crop_prior.padding", "0.1"]) == 0
    _, (run,) = runs(workspace)
    run_id = run.info.run_id
    assert main(["export", run_id, "--out", "policy", "--register", "colours"]) == 0
    out = capsys.readouterr().out
    assert "registered as colours 1" in out
    assert main(["export", run_id, "--out", "policy"]) == 2
    assert "policy is not an empty folder" in capsys.readouterr().err
    assert main(["export", run_id, "--out", "policy/adapter_config.json"]) == 2
    assert "not an empty folder" in capsys.readouterr().err

    loaded = RegionReranker.from_pretrained("policy")
    assert loaded.prior.padding == 0.1
    image = Image.new("RGB", (90, 70), "green")
    crop = loaded.crop(image, "What is this?")
    base = loaded.policy.adapter_state()
    trained = RegionReranker.from_pretrained(
        workspace / "mlruns" / "regionr1" / run_id / "artifacts" / "adapter"
    )
    assert all(torch.equal(v, base[k]) for k, v in trained.policy.adapter_state().items())
    for folder, words in (("nowhere", "has no regionr1.json"), ("broken", "is damaged")):
        if folder == "broken":
            Path(folder).mkdir()
            Path(folder, "regionr1.json").write_text("{}")
        with pytest.raises(UserError, match=words):
            RegionReranker.from_pretrained(folder)

    command = next(line for line in out.splitlines() if "mlflow models serve" in line).split()
    port = free_port()
    command = [sys.executable, "-m", *command[:-1], str(port)]
    uri = f"sqlite:///{workspace}/mlruns/mlflow.db"
    with Path("server.log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, "MLFLOW_TRACKING_URI": uri}, start_new_session=True,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until_up(port)
        row = {"image": encoded(image), "question": "What is this?", "candidates": [encoded(image)]}
        status, text = post(port, json.dumps({"dataframe_records": [row]}).encode())
        assert status == 200, text
        (answer,) = json.loads(text)["predictions"]
        assert answer["decision"] == crop.decision
        assert (answer["ranking"] is None) == (crop.decision == "INVALID")
        for change, words in (
            ({"image": "%%%"}, "not base64"),
            ({"candidates": []}, "candidates is empty"),
            ({"image": "A" * 200_000_000}, "characters: 200,000,000"),
        ):
            body = json.dumps({"dataframe_records": [{**row, **change}]}).encode()
            status, text = post(port, body)
            assert status == 400 and words in text, text[:500]
        without = {key: value for key, value in row.items() if key != "image"}
        status, text = post(port, json.dumps({"dataframe_records": [without]}).encode())
        assert status == 400 and "image" in text
        assert post(port, b"no json")[0] == 400
        status, text = post(port, json.dumps({"dataframe_records": [row]}).encode())
        assert status == 200, "the server lives on"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_up(port: int) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2)
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(Path("server.log").read_text()[-3000:])


def test_the_model_loads_its_adapter_from_the_context(monkeypatch) -> None:
    loaded = []
    monkeypatch.setattr(RegionReranker, "from_pretrained", loaded.append)
    ServedModel().load_context(SimpleNamespace(artifacts={"adapter": "folder"}, model_config=None))
    assert loaded == ["folder"]
