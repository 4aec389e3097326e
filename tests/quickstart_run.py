"""The quickstart's recipe made tiny, and the runs that it leaves."""

from pathlib import Path
from typing import Any

import yaml
from checkout import CONF


def options(shards: Path, policy: Path, steps: int = 2, scorer: str = "pixels") -> list[str]:
    """The quickstart's configs, made tiny."""
    configs = [["-c", str(CONF / f"{name}.yaml")] for name in ("base", "builtin", "quickstart")]
    settings = {
        "data.shards": shards,
        "data.batch_size": 3,
        "data.eval_batch_size": 4,
        "model.policy.model": policy,
        "model.policy.max_new_tokens": 40,
        "model.group_size": 4,
        "model.reranker.scorer": scorer,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": 1,
        "trainer.limit_val_batches": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "gallery.every_n_steps": 1,
        "gallery.examples": 4,
    }
    flags = [[f"--{name}", str(value)] for name, value in settings.items()]
    return [arg for pair in configs + flags for arg in pair]


def parts(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Configs and settings of what `options` returned, as a sweep file holds them."""
    pairs = zip(args[6::2], args[7::2], strict=True)
    return args[1:6:2], {name.removeprefix("--"): yaml.safe_load(value) for name, value in pairs}


def runs(workspace: Path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlruns/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, client.search_runs(experiments)
