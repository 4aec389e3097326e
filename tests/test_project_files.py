"""What stands around the package: workflow, hooks, citation, and what the wheel must carry."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

import regionr1

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_its_actions_and_may_only_read(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job and job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert re.fullmatch(
                r"actions/[\w-]+@[0-9a-f]{40}", step.get("uses", "actions/a@" + "0" * 40)
            )
            if "checkout" in step.get("uses", ""):
                assert step["with"] == {"persist-credentials": False}


def test_workflow_runs_what_ci_runs() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = {
        name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()
    }
    assert commands["tests"] == [".ci/run"]
    named = [part for lines in commands.values() for line in lines for part in line.split()]
    paths = [part for part in named if part.startswith((".ci/", "scripts/", "tests/"))]
    assert paths and all((ROOT / path).exists() for path in paths)


def test_hooks_run_the_ruff_of_the_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"].split(" --")[0] for hook in hooks] == [
        ".venv/bin/ruff check",
        ".venv/bin/ruff format",
    ]
    assert all(hook["language"] == "system" for hook in hooks)


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == regionr1.__version__
    assert citation["preferred-citation"]["url"] in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_wheel_carries_types_and_data(tmp_path: Path) -> None:
    """It is built without a build environment of its own, which would need the network."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert "regionr1/py.typed" in names and "regionr1/builtin/artwork/noto.zip" in names
    package = {
        f"regionr1/{path.relative_to(ROOT / 'regionr1').as_posix()}"
        for path in (ROOT / "regionr1").rglob("*.py")
    }
    assert package <= set(names)
