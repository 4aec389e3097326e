"""Sweep workers on two machines that share nothing but a PostgreSQL and an MLflow server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import psycopg
import pytest
import yaml
from mlflow.tracking import MlflowClient
from mlflow_server import free_port, kill, serve
from optuna.trial import TrialState
from postgres import postgresql
from quickstart_run import options, parts

N_TRIALS = 4


@pytest.mark.slow
def test_two_machines_one_sweep(tmp_path, builtin_shards, tiny_policy) -> None:
    sweep = {
        "study": "shared",
        "objectives": [{"metric": "val/ndcg", "direction": "maximize"}],
        "space": {"model.crop_prior.padding": {"type": "float", "low": 0.0, "high": 0.2}},
        "sampler": {"class_path": "optuna.samplers.RandomSampler"},
    }
    machines = [tmp_path / "one", tmp_path / "two"]
    for machine in machines:  # each has its own copy of everything
        machine.mkdir()
        shards = shutil.copytree(builtin_shards, machine / "shards")
        args = options(Path(shards), Path(shutil.copytree(tiny_policy, machine / "policy")))
        sweep["configs"], sweep["set"] = parts(args)
        sweep["set"] |= {"data.shards": "shards", "model.policy.model": "policy"}
        (machine / "sweep.yaml").write_text(yaml.safe_dump(sweep))

    server = tmp_path / "server"
    server.mkdir()
    with postgresql() as study_url:
        with psycopg.connect(study_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE mlflow")
        runs_url = study_url.replace("/postgres", "/mlflow").replace("sql://", "sql+psycopg://")
        port = free_port()
        tracking = serve(server, port, runs_url)
        address = f"http://127.0.0.1:{port}"
        try:
            command = [sys.executable, "-m", "regionr1", "sweep", "sweep.yaml"]
            command += ["--n-trials", str(N_TRIALS), "--storage", study_url]
            workers = [
                subprocess.Popen(
                    command,
                    cwd=machine,
                    env=os.environ | {"MLFLOW_TRACKING_URI": address},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for machine in machines
            ]
            printed = [worker.communicate(timeout=500)[0] for worker in workers]
            assert [worker.returncode for worker in workers] == [0, 0], printed

            url = study_url.replace("postgresql://", "postgresql+psycopg://")
            trials = optuna.load_study(study_name="shared", storage=url).trials
            assert [trial.state for trial in trials] == [TrialState.COMPLETE] * N_TRIALS
            done = [
                sorted((machine / "mlruns/sweeps/shared").glob("*.log")) for machine in machines
            ]
            assert all(done), "both machines worked"
            assert sorted(int(log.stem) for logs in done for log in logs) == [0, 1, 2, 3]

            client = MlflowClient(address)
            experiments = [e.experiment_id for e in client.search_experiments()]
            runs = client.search_runs(experiments)
            (parent,) = [run for run in runs if "sweep.trial" not in run.data.tags]
            children = [run for run in runs if "sweep.trial" in run.data.tags]
            assert len(children) == N_TRIALS
            assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
            for run in children:
                assert run.info.status == "FINISHED"
                adapter = client.download_artifacts(run.info.run_id, "adapter", str(server))
                assert (Path(adapter) / "adapter_model.safetensors").is_file()
        finally:
            kill(tracking)
    assert not list(tmp_path.glob("*/mlruns/regionr1/*/artifacts")), "nothing lies on one machine"
