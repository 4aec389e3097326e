"""The scripts: their help, and what the quickstart runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from checkout import ROOT

SCRIPTS = ROOT / "scripts"
QUICKSTART = (SCRIPTS / "quickstart").read_text()


def call(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_scripts_are_executable_and_well_formed() -> None:
    for path in SCRIPTS.iterdir():
        if path.suffix:
            continue
        assert os.access(path, os.X_OK), path
        first = path.read_text().splitlines()[0]
        if "bash" in first:
            assert call("bash", "-n", path).returncode == 0
        else:
            compile(path.read_text(), path.name, "exec")


def test_help_of_the_scripts_users_run(tmp_path: Path) -> None:
    done = call("bash", SCRIPTS / "quickstart", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "options go to `regionr1 fit`" in done.stdout
    assert not list(tmp_path.iterdir())
    done = call(sys.executable, SCRIPTS / "benchmark_data", "scale", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--entities" in done.stdout
    done = call(sys.executable, SCRIPTS / "experiment", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--seeds" in done.stdout


def test_quickstart_runs_the_documented_stages() -> None:
    stages = re.findall(r'^stage (?:"[^"]+"|\S+) (.+)$', QUICKSTART, re.M)
    assert [" ".join(stage.split()[:3]).split(" -")[0] for stage in stages] == [
        "scripts/install",
        "regionr1 data builtin",
        "regionr1 data shards",
        "regionr1 data builtin-premise",
        "regionr1 fit",
        "regionr1 test",
    ]
    assert "regionr1 fit -c quickstart" in QUICKSTART
    shards = re.search(r"^shards=(\S+)", QUICKSTART, re.M)
    assert shards and f"shards: {shards[1]}\n" in (ROOT / "conf" / "builtin.yaml").read_text()


def test_quickstart_stops_at_the_first_failing_stage(tmp_path: Path) -> None:
    """In a copy whose install step fails, nothing after it is tried."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "quickstart").write_text(QUICKSTART)
    install = tmp_path / "scripts" / "install"
    install.write_text("#!/usr/bin/env bash\necho no network >&2\nexit 3\n")
    install.chmod(0o755)
    done = call("bash", tmp_path / "scripts" / "quickstart", cwd=tmp_path)
    assert done.returncode == 3 and "== write benchmark" not in done.stdout


def installed(folder: Path, fails: str, **settings: str) -> list[str]:
    """The calls that `scripts/install dev` makes, where commands that hold `fails` fail."""
    bin = folder / ".venv" / "bin"
    for path in (folder / "scripts", bin):
        path.mkdir(parents=True)
    for name in ("scripts/install", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("python", "uv"):
        (bin / name).write_text(
            f'#!/usr/bin/env bash\necho "{name} ${{UV_DEFAULT_INDEX:-}} $*" >> "{folder}/calls"\n'
            f'[[ "{name} $*" != *{fails}* ]]\n'
        )
        (bin / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "PYTHON"))}
    done = subprocess.run(
        ["bash", folder / "scripts" / "install", "dev"],
        env=kept | settings, capture_output=True, text=True,
    )  # fmt: skip
    calls = (folder / "calls").read_text().splitlines()
    assert (done.returncode == 0) == (folder / ".venv" / ".installed-dev").exists(), done.stderr
    return [call for call in calls if " install " in call]


def test_install_takes_torch_by_pip_and_the_rest_by_uv(tmp_path: Path) -> None:
    torch, uv, rest = installed(tmp_path, "nothing", PIP_INDEX_URL="https://index.test/simple")
    assert "pip" in torch and re.search(r"--no-compile torch==\S+$", torch)
    assert re.search(r"pip .*install .*uv==\S+$", uv)
    assert rest.startswith("uv https://index.test/simple pip install")
    assert rest.endswith("-c constraints.txt -e .[dev]") and "--compile" not in rest


def test_install_compiles_where_commands_may_not(tmp_path: Path) -> None:
    torch, _, rest = installed(tmp_path, "nothing", PYTHONDONTWRITEBYTECODE="1")
    assert "--no-compile" not in torch and "--compile-bytecode" in rest


@pytest.mark.parametrize("fails", ["uv==", '"uv pip"'])
def test_install_falls_back_to_pip(tmp_path: Path, fails: str) -> None:
    last = installed(tmp_path, fails)[-1]
    assert last.startswith("python") and last.endswith("-c constraints.txt -e .[dev]")


def test_a_failing_install_says_so_and_leaves_no_stamp(tmp_path: Path) -> None:
    assert len(installed(tmp_path, "torch==")) == 1


def test_experiment_says_that_runs_are_of_several_commits() -> None:
    def run(name: str, commit: str, dirty: str = "no") -> SimpleNamespace:
        tags = {"mlflow.source.git.commit": commit, "git.dirty": dirty}
        return SimpleNamespace(data=SimpleNamespace(tags=tags), info=SimpleNamespace(run_name=name))

    script = ModuleType("experiment")
    loader = SourceFileLoader("experiment", str(SCRIPTS / "experiment"))
    script.__file__ = loader.path
    loader.exec_module(script)
    note = script.of_several_commits
    one, two = run("exact-seed0", "a" * 40), run("exact-seed1", "b" * 40)
    assert note([one, one]) == ""
    assert "aaaaaaa: exact-seed0; bbbbbbb: exact-seed1\n" in note([one, two])
    assert "aaaaaaa with changes: exact-seed2" in note([one, run("exact-seed2", "a" * 40, "yes")])


@pytest.mark.slow
def test_experiment_trains_once_and_reports(builtin_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "experiment"
    command = [
        *(sys.executable, SCRIPTS / "experiment", "--out", out, "--seeds", 4),
        *("--variants", "balanced", "--steps", 2, "--"),
        *("--data.shards", builtin_shards, "--data.batch_size", 2),
        *("--model.reranker.init_args.scorer", "pixels", "--gallery.every_n_steps", 1),
        *("--trainer.val_check_interval", 1, "--trainer.limit_val_batches", 1),
        *("--trainer.limit_test_batches", 1, "--trainer.log_every_n_steps", 1),
    ]
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\| policy +\|", done.stdout, re.M), done.stdout
    assert (out / "curves.png").stat().st_size > 0
    results = json.loads((out / "results.json").read_text())
    run = results["runs"]["balanced"]["4"]
    assert [seen for seen, _ in run["curve"]] == [2, 4]  # after each of 2 steps of 2 queries
    assert [seen for seen, _ in run["p_full"]] == [0, 2]  # before each of them
    assert {"full", "warm_start", "policy", "better_of", "reference"} <= set(run["test"])
    gain = {part: run["gain"][part]["recall_at_1"]["value"] for part in run["gain"]}
    assert gain["switch"] + gain["boxes"] + gain["decision"] == pytest.approx(gain["gain"])
    assert "| switch: always crop" in done.stdout
    artifacts = out / "regionr1" / run["run_id"] / "artifacts"
    assert (artifacts / "before_after.png").is_file()
    assert set(results["validation_levels"]) == {"full", "warm_start", "reference"}

    again = call(*command, cwd=tmp_path)
    assert again.returncode == 0 and "balanced-seed4: finished before" in again.stdout
    assert json.loads((out / "results.json").read_text()) == results
    assert "several commits" not in again.stdout

    other = call(*command, "--model.group_size", 4, cwd=tmp_path)
    assert other.returncode == 1 and "other settings" in other.stderr
    wrong = call(*("short" if part == "balanced" else part for part in command), cwd=tmp_path)
    assert wrong.returncode == 2 and "'NAME: OPTIONS'" in wrong.stderr
    bad = [str(tmp_path / "bad") if part == out else part for part in command]
    failed = call(*bad, "--model.group_size", 1, cwd=tmp_path)
    assert failed.returncode == 1 and "group_size" in failed.stderr and "logs" in failed.stderr
