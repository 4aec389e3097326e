"""What a hostile client costs the server: peak memory and answers, printed with `pytest -s`."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from regionr1.policy.adapter_folder import write_settings
from regionr1.policy.crop_policy import CropPolicy

MB = 1_000_000
SETTINGS = {"model": "builtin", "revision": None, "max_new_tokens": 48, "grammar": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The shipped policy and scorer behind HTTP: the process and the address."""
    folder = tmp_path_factory.mktemp("policy")
    CropPolicy(**SETTINGS).save_adapter(folder)
    scorer = {"init_args": {"scorer": "builtin"}}
    model = {"policy": {"init_args": SETTINGS}, "reranker": scorer, "crop_prior": {}}
    write_settings(folder, {"model": model})
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "regionr1", "serve", str(folder), "--port", "0",
         "--device", "cpu"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("serving "))
    yield process.pid, line.split()[-1]
    process.send_signal(signal.SIGINT)
    process.wait(60)


def post(url: str, body: bytes) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, body, timeout=500) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:  # the server has answered and closed while we were still sending
        return 0, "closed"


def png(side: int) -> str:
    """A picture of many pixels in few bytes: 25 million in 25 kB."""
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "PNG")
    return b64encode(out.getvalue()).decode()


def of(*rows: dict) -> bytes:
    return json.dumps({"dataframe_records": rows}).encode()


BOMB, SMALL = png(5_000), png(64)
PLAIN = {"image": SMALL, "question": "What is this?"}
ATTACKS = {
    "a usual request": (of({**PLAIN, "candidates": [SMALL] * 20}), 1),
    "200 bombs of 25 million pixels as candidates": (of({**PLAIN, "candidates": [BOMB] * 200}), 1),
    "32 bombs as query images": (of(*[{**PLAIN, "image": BOMB}] * 32), 1),
    "a bomb of 10,000 x 10,000": (of({**PLAIN, "image": png(10_000)}), 1),
    "a question of 3 MB": (of({**PLAIN, "question": "a" * 3 * MB}), 1),
    "32 questions of 2,000 characters": (of(*[{**PLAIN, "question": "a " * 1_000}] * 32), 1),
    "200 rows": (of(*[PLAIN] * 200), 1),
    "60 MB of {},": (b'{"dataframe_records": [' + b"{}," * (20 * MB) + b"{}]}", 1),
    "60 MB of [": (b"[" * (60 * MB), 1),
    "a body of 200 MB": (b"a" * (200 * MB), 1),
    "12 clients, 20 MB of text each": (of({**PLAIN, "image": "A" * (20 * MB)}), 12),
    "12 clients, 32 bombs each": (of(*[{**PLAIN, "image": BOMB}] * 32), 12),
}


def peak_mb(pid: int) -> float:
    """The most resident memory since it was last set back."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_hostile_client_cannot_take_the_machine(server) -> None:
    pid, url = server
    assert post(url, of(PLAIN))[0] == 200
    usual = None
    for name, (body, clients) in ATTACKS.items():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
        with ThreadPoolExecutor(clients) as threads:
            found = list(threads.map(lambda _, body=body: post(url, body), range(clients)))
        peak = peak_mb(pid)
        usual = usual or peak
        codes = dict(sorted(Counter(code for code, _ in found).items()))
        rows = [
            row for code, text in found if code == 200 for row in json.loads(text)["predictions"]
        ]
        errors = [row["error"] for row in rows if row["error"]]
        print(f"{name:<46} {len(body) / MB:7.2f} MB x {clients:<2}  peak {peak:6.0f} MB  {codes}, "
              f"{len(rows) - len(errors)} rows answered, {len(errors)} refused")  # fmt: skip
        assert 500 not in codes
        for told in [*errors, *(text for code, text in found if code > 200)]:
            assert len(told) < 200 and "aaaa" not in told and "AAAA" not in told
        assert peak < usual + 2_000, f"{name}: {peak:.0f} MB"
        assert post(url, of(PLAIN))[0] == 200, "the server lives on"
