"""Bash completes commands, options and recipes."""

import subprocess

import pytest

from regionr1.cli.main import main

ASKED = {
    "regionr1 sw": "sweep",
    "regionr1 fit -c qu": "quickstart",
    "regionr1 fit --model.gro": "--model.group_size",
    "regionr1 data shards --ro": "--root",
    "regionr1 sweep lor": "lora_lr",
    "regionr1 compare --re": "--resamples",
}


@pytest.mark.slow
def test_bash_completes(capsys) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for typed in ASKED:
        script += f"COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _regionr1\n"
        script += 'echo "${COMPREPLY[*]}"\n'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(ASKED.values())
