"""The command line around the tiny module of `tiny_run`."""

from pathlib import Path

from tiny_run import TinyData, TinyModule

from regionr1.cli import fit as lightning_cli

CONFIG = """\
trainer:
  accelerator: cpu
  max_steps: 4
  max_epochs: -1
  val_check_interval: 2
  check_val_every_n_epoch: null
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
checkpoint:
  every_n_steps: 3
gallery:
  every_n_steps: 2
model:
  policy:
    class_path: tiny_run.TinyPolicy
    init_args:
      rank: 2
data:
  shards: here
"""


def run(*args: object) -> lightning_cli.RegionCLI:
    return lightning_cli.run([str(arg) for arg in args], TinyModule, TinyData)


def only_run(workspace: Path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("regionr1")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found
