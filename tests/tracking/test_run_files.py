"""What a run leaves behind under other loggers than MLflow's."""

from pathlib import Path

import pytest
from tiny_command import CONFIG, run


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_another_loggers_folder_holds_config_adapter_and_crops(
    workspace: Path, logger: str
) -> None:
    if logger == "TensorBoardLogger":
        pytest.importorskip("tensorboard")
    (workspace / "run.yaml").write_text(CONFIG)
    path = f"lightning.pytorch.loggers.{logger}"
    run("fit", "-c", "run.yaml", "--trainer.logger", path, "--trainer.logger.save_dir", "logs")
    (folder,) = (workspace / "logs").glob("*/version_0")
    assert "group_size" in (folder / "config.yaml").read_text()
    assert (folder / "adapter" / "adapter.pt").is_file()
    assert sorted(path.name for path in folder.glob("crops-*.png")) == [
        *("crops-000002.png", "crops-000004.png")
    ]
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert not (workspace / "mlruns" / "regionr1").exists()
