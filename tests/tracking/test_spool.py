"""Logging while the tracking server is away: nothing is lost, in order, once."""

import time
from pathlib import Path

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow_server import free_port, kill, serve
from PIL import Image

from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.resume import find_run
from regionr1.tracking.spool import SpoolingClient


class Server:
    """Makes a client's store unreachable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up, self.calls = True, 0
        deliver = SpoolingClient.deliver

        def guarded(client, record, source):
            self.calls += 1
            if not self.up:
                raise MlflowException("API request to http://x failed with exception refused")
            deliver(client, record, source)

        monkeypatch.setattr(SpoolingClient, "deliver", guarded)


@pytest.fixture
def server(monkeypatch) -> Server:
    return Server(monkeypatch)


@pytest.fixture
def logger(workspace: Path) -> TrackingLogger:
    logger = TrackingLogger(experiment_name="colours")
    assert logger.run_id
    return logger


def history(logger: TrackingLogger, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(logger._tracking_uri).get_metric_history(logger.run_id, name)
    return [(point.step, point.value) for point in found]


def test_a_server_that_comes_back_gets_all(logger, server, workspace, capsys) -> None:
    client = logger.experiment
    logger.log_metrics({"train/loss": 3.0}, step=0)
    server.up = False
    logger.log_metrics({"train/loss": 2.0}, step=1)
    before = server.calls
    logger.log_metrics({"train/loss": 1.0}, step=2)
    assert server.calls == before, "a server that is away does not hold up every step"
    client.log_text(logger.run_id, "seen", "note.txt")
    client.log_image(logger.run_id, Image.new("RGB", (8, 8)), key="crops", step=2)
    (workspace / "adapter").mkdir()
    (workspace / "adapter" / "weights").write_bytes(b"1234")
    client.log_artifacts(logger.run_id, str(workspace / "adapter"), "adapter")
    (workspace / "adapter" / "weights").unlink()
    client.set_tag(logger.run_id, "colour", "red")
    assert history(logger, "train/loss") == [(0, 3.0)]
    server.up = True
    logger.finalize("success")
    assert history(logger, "train/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["colour"] == "red"
    artifacts = workspace / "mlruns" / "colours" / logger.run_id / "artifacts"
    assert (artifacts / "note.txt").read_text() == "seen"
    assert (artifacts / "adapter" / "weights").read_bytes() == b"1234"
    assert len(list((artifacts / "images").glob("crops+step+2+*.png"))) == 1
    assert not list((workspace / "mlruns" / "spool").glob("*")), "nothing is left behind"
    out = capsys.readouterr().out
    assert out.count("is away") == 1 and "is back" in out


def test_a_server_that_stays_away_gets_all_by_a_command(
    logger, server, workspace, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("regionr1.tracking.logger.FLUSH_S", 0.0)
    server.up = False
    for step in range(3):
        logger.log_metrics({"train/loss": float(step)}, step=step)
    logger.finalize("failed")
    command = capsys.readouterr().out.split("When it is back:\n")[1].split()
    assert command[:2] == ["regionr1", "upload"] and Path(command[2]).is_dir()
    assert main(command[1:]) == 2
    assert "took 0 of 4 records" in capsys.readouterr().err
    server.up = True
    assert main(command[1:]) == 0
    assert "sent 4 records" in capsys.readouterr().out
    assert history(logger, "train/loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert logger.experiment.get_run(logger.run_id).info.status == "FAILED"
    assert main(command[1:]) == 2 and "no spool" in capsys.readouterr().err


def test_no_server_at_the_start_is_one_sentence(workspace: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"{address} cannot be reached; start it"):
        TrackingLogger(tracking_uri=address)
    with pytest.raises(UserError, match=f"{address} cannot be reached; start it"):
        find_run("0123", address)


def test_what_a_server_refuses_is_raised(logger) -> None:
    logger.experiment.log_batch(logger.run_id, metrics=[Metric("train/loss", 1.0, 0, 0)])
    with pytest.raises(UserError, match="the tracking store sqlite.* refused: Run with id=no"):
        logger.experiment.log_batch("no-such-run", metrics=[Metric("loss", 1.0, 0, 0)])


@pytest.mark.slow
def test_a_real_server_that_goes_away_and_comes_back(workspace: Path, monkeypatch) -> None:
    port = free_port()
    server = serve(workspace, port)
    try:
        logger = TrackingLogger(tracking_uri=f"http://127.0.0.1:{port}")
        logger.log_metrics({"train/loss": 0.0}, step=0)
        kill(server)
        begin = time.monotonic()
        for step in range(1, 50):
            logger.log_metrics({"train/loss": float(step)}, step=step)
        logger.experiment.log_text(logger.run_id, "seen", "note.txt")
        assert time.monotonic() - begin < 20, "training goes on"
        server = serve(workspace, port)
        logger.finalize("success")
        assert history(logger, "train/loss") == [(step, float(step)) for step in range(50)]
        assert logger.experiment.get_run(logger.run_id).info.status == "FINISHED"
        (note,) = (workspace / "store").rglob("note.txt")
        assert note.read_text() == "seen"
    finally:
        kill(server)
