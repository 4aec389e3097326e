"""The HTTP server, asked by real clients."""

import json
import select
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn
from mlflow_server import free_port
from written_policy import ANSWERS, ROW, answering, colour_reranker

from regionr1 import RegionReranker
from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.serve.limits import Limits
from regionr1.serve.server import app, read_rows
from regionr1.serve.service import Service

LIMITS = Limits(rows=4, body_bytes=200_000, held_bytes=300_000)


def post(port: int, body: bytes, path: str = "invocations") -> tuple[int, dict]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def request_of(*rows: object) -> bytes:
    return json.dumps({"dataframe_records": rows}).encode()


@pytest.fixture(scope="module")
def service(tiny_policy: Path) -> Service:
    reranker = RegionReranker(answering(tiny_policy, ANSWERS), colour_reranker(), batch_size=8)
    return Service(reranker, LIMITS, wait_s=0.05)


@pytest.fixture(scope="module")
def port(service) -> Iterator[int]:
    found = free_port()
    server = uvicorn.Server(uvicorn.Config(app(service), port=found, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield found
    server.should_exit = True
    thread.join()


def test_an_answer_and_a_row_that_fails_alone(port) -> None:
    status, answer = post(port, request_of(ROW, {**ROW, "image": "%%%"}))
    assert status == 200
    good, bad = answer["predictions"]
    assert good["decision"] == "REGION" and good["ranking"] == [0, 1, 2] and good["error"] is None
    assert bad["error"] == "row 1, image is not base64; encode the file's bytes"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"no json", 400, "the request is no JSON"),
        (b"[" * 9_000, 400, "more parts than rows within the limits can have"),
        (b"[" * 4_000, 400, "the request is no JSON"),
        (b'{"dataframe_records": [' + b"{}," * 20_000 + b"{}]}", 400, "more parts than rows"),
        (b"{}", 400, "the request holds no rows"),
        (b'{"dataframe_records": []}', 400, "the request holds no rows"),
        (b"\xff\xfe", 400, "the request is no JSON"),
        (request_of(*[{}] * 5), 400, "rows of the request: 5, above the server's limit of 4"),
        (b"a" * 200_001, 413, "the request has more than 200,000 bytes"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_refusals_are_one_sentence_without_the_request(port, body, status, words) -> None:
    found, answer = post(port, body)
    assert found == status and words in answer["error"] and len(answer["error"]) < 120
    assert post(port, request_of(ROW))[0] == 200, "the server lives on"


def test_many_clients_are_answered_in_few_batches(port, service) -> None:
    before = len(service.batches)
    with ThreadPoolExecutor(12) as clients:
        found = list(clients.map(lambda q: post(port, request_of({**ROW, "question": q})),
                                 [*ANSWERS] * 3))  # fmt: skip
    decisions = [answer["predictions"][0]["decision"] for _, answer in found]
    assert decisions == ["REGION", "REGION", "FULL", "INVALID"] * 3
    batches = service.batches[before:]
    assert sum(batches) == 12 and len(batches) < 12, batches


def test_slow_senders_cannot_hold_more_than_is_allowed(port) -> None:
    """Of two requests that never end and are too large together, one is told to come again."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 190000\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", port)) as one,
        socket.create_connection(("127.0.0.1", port)) as two,
    ):
        for sender in (one, two):
            sender.sendall(head + b"a" * 160_000)
        (told,), _, _ = select.select([one, two], [], [], 60)
        assert told.recv(1000).startswith(b"HTTP/1.1 503")
    end = time.monotonic() + 60
    while post(port, request_of(ROW))[0] != 200:
        assert time.monotonic() < end, "what they held is given back"


def test_a_request_as_large_as_the_limits_allow_is_read() -> None:
    limits = Limits()
    row = {"question": "," * limits.question, "candidates": ["A"] * limits.candidates}
    assert len(read_rows(request_of(*[row] * limits.rows), limits)) == limits.rows
    with pytest.raises(UserError, match="no JSON"):
        read_rows(b"[" * 70_000, limits)


def test_the_command_refuses_a_port_in_use_and_a_folder_that_holds_no_policy(
    tmp_path, capsys
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        assert main(["serve", str(tmp_path), "--port", str(used)]) == 2
    assert f"cannot listen at 127.0.0.1:{used}" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "has no regionr1.json" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "0", "--limits.rows", "0"]) == 2
    assert "limits.rows is 0" in capsys.readouterr().err
