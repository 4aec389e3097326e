"""The wheel in an empty folder: README's commands, shortened, by the installed program alone."""

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import pytest
from checkout import ROOT
from mlflow_server import free_port
from PIL import Image
from quickstart_run import runs

SHORT = {
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 1,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 1,
    "data.batch_size": 2,
    "data.eval_batch_size": 4,
    "model.scheduler.init_args.warmup_steps": 1,
    "model.scheduler.init_args.total_steps": 2,
}
OPTIONS = [part for name, value in SHORT.items() for part in (f"--{name}", str(value))]


def readme(start: str) -> list[str]:
    """The command of the README's block for a wheel that begins so."""
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^```bash\n(regionr1 data builtin .*?)^```", text, re.M | re.S)
    (line,) = [line for line in block.splitlines() if line.startswith(start)]
    return shlex.split(line)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, and an empty folder in it.

    It sees the packages of the environment of the tests, as there is no network to install them
    from, but not the clone.
    """
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build, str(ROOT)], check=True)
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.slow
def test_the_readmes_commands_outside_the_clone(home: Path, monkeypatch) -> None:
    here = home / "empty"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{home / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment.pop("MLFLOW_TRACKING_URI", None)

    def regionr1(*command: str) -> str:
        assert command[0] == "regionr1"
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    code = "import regionr1; print(regionr1.__file__)"
    python = str(home / "env" / "bin" / "python")
    found = subprocess.check_output([python, "-c", code], cwd=here, env=environment, text=True)
    assert str(home) in found, "the wheel, and not the clone"

    assert "quickstart" in regionr1("regionr1", "recipes")
    regionr1(*readme("regionr1 data builtin"), "--train", "24", "--val", "8", "--test", "10")
    regionr1(*readme("regionr1 data shards"))
    fit = readme("regionr1 fit")
    for rank in ("4", "2"):
        lora = ("--model.policy.init_args.lora_rank", rank)
        said = regionr1(*fit, *OPTIONS, *lora)
        assert "best validation" in said and "regionr1 test --resume" in said
        assert "CondR@1" in regionr1(*readme("regionr1 test"))
    monkeypatch.chdir(here)
    client, trained = runs(here)
    names = [run.info.run_name for run in trained]
    compared = regionr1(*readme("regionr1 compare")[:2], *names)
    assert "model.policy.lora_rank" in compared and "model.group_size" not in compared

    sweep = readme("regionr1 sweep")
    said = regionr1(*sweep, "--in-process", "--", *OPTIONS)
    assert "4 trials in total" in said and "3/4 done, best " in said
    _, everything = runs(here)
    trials = [run for run in everything if run.data.tags.get("sweep.trial")]
    assert len(trials) == 4 and any(run.data.tags.get("sweep.best") == "yes" for run in trials)

    command = ["" if part == "RUN_ID" else part for part in readme("regionr1 export")]
    command[2] = trained[0].info.run_id
    regionr1(*command)
    assert (here / "policy" / "adapter_model.safetensors").is_file()

    port = free_port()
    command = [*readme("regionr1 serve"), "--port", str(port)]
    server = subprocess.Popen(command, cwd=here, env=environment)
    try:
        assert answer(port)["decision"] in ("FULL", "REGION", "INVALID")
    finally:
        server.terminate()
        server.wait()


def answer(port: int) -> dict:
    """What the server says to one picture."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "green").save(out, "PNG")
    picture = base64.b64encode(out.getvalue()).decode()
    rows = {"dataframe_records": [{"image": picture, "question": "What is this?"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(rows).encode()
    )
    for _ in range(240):
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["predictions"][0]
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not answer")
