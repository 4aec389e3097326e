"""What a run leaves behind under other loggers than MLflow's."""

from pathlib import Path

import pytest
from tiny_command import CONFIG, run

PACKAGES = {"CSVLogger": "lightning", "TensorBoardLogger": "tensorboard", "WandbLogger": "wandb"}


@pytest.mark.parametrize("logger", PACKAGES)
def test_another_loggers_folder_holds_config_adapter_and_crops(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    pytest.importorskip(PACKAGES[logger])
    monkeypatch.setenv("WANDB_MODE", "offline")
    (workspace / "run.yaml").write_text(CONFIG.replace("here", "https://me:s3cret@host/shards"))
    path = f"lightning.pytorch.loggers.{logger}"
    run("fit", "-c", "run.yaml", "--trainer.logger", path, "--trainer.logger.save_dir", "logs")
    (config,) = (workspace / "logs").glob("*/*/config.yaml")
    folder = config.parent
    assert "group_size" in config.read_text()
    assert (folder / "adapter" / "adapter.pt").is_file()
    assert sorted(path.name for path in folder.glob("crops-*.png")) == [
        *("crops-000002.png", "crops-000004.png")
    ]
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert not (workspace / "mlruns" / "regionr1").exists()
    written = [p for p in (workspace / "logs").rglob("*") if p.is_file() and p.suffix != ".ckpt"]
    assert not any(b"s3cret" in path.read_bytes() for path in written), "a password is kept"
