"""The scripts: their help, and what the quickstart runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
        "regionr1 data premise",
        "regionr1 fit",
        "regionr1 test",
    ]
    assert "-c conf/base.yaml -c conf/builtin.yaml -c conf/quickstart.yaml" in QUICKSTART
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
