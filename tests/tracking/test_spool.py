"""Logging while the tracking server is away: nothing is lost, in order, once."""

import errno
import json
import os
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
from regionr1.tracking.spool import FILES, RECORDS, SpoolingClient, upload


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


def away(logger: TrackingLogger, server: Server) -> Path:
    """Has two rows kept in the spool; returns its folder."""
    server.up = False
    for step in range(2):
        logger.log_metrics({"train/loss": float(step)}, step=step)
    return logger.experiment.spool(logger.run_id).folder


def test_lines_that_a_kill_cut_short_are_counted(logger, server, capsys) -> None:
    records = away(logger, server) / RECORDS
    with records.open("ab") as file:
        file.write(b'{"op": "log_batch", "met')
    logger.log_metrics({"train/loss": 2.0}, step=2)
    assert records.read_bytes().count(b"\n") == 4, "the next line is one of its own"
    server.up = True
    logger.finalize("success")
    assert history(logger, "train/loss") == [(step, float(step)) for step in range(3)]
    assert "1 records were cut short by a kill or a full disk" in capsys.readouterr().out
    assert not records.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"op": "log_artifact", "source": "../../../secret.txt", "artifact_path": None},
        {"op": "log_artifact", "source": "files/000000/link.txt", "artifact_path": None},
        {"op": "log_artifacts", "source": "files/000001", "artifact_path": None},
        {"op": "log_artifact", "source": "files/000000/note.txt", "artifact_path": "../../x"},
        {"op": "log_artifact", "artifact_path": None},
        {"run_id": "another"},
        {"op": "rm"},
    ],
)
def test_a_spool_names_nothing_but_its_own(logger, server, workspace, changed) -> None:
    (workspace / "secret.txt").write_text("secret")
    folder = away(logger, server)
    for number, name in ((0, "note.txt"), (1, "note.txt")):
        (folder / FILES / f"{number:06d}").mkdir(parents=True)
        (folder / FILES / f"{number:06d}" / name).write_text("seen")
        (folder / FILES / f"{number:06d}" / "link.txt").symlink_to(workspace / "secret.txt")
    record = json.loads((folder / RECORDS).read_text().splitlines()[0]) | changed
    (folder / RECORDS).write_text(json.dumps(record) + "\n")
    server.up = True
    with pytest.raises(UserError, match="names another run, or a file outside|no way to log"):
        upload(folder)
    found = [
        p.read_text() for p in (workspace / "mlruns").rglob("*.txt") if folder not in p.parents
    ]
    assert "secret" not in found


def test_a_full_disk_is_not_taken_for_a_server_that_is_away(logger, monkeypatch, capsys) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SpoolingClient, "deliver", full)
    words = "cannot be written to sqlite.*No space left.*`regionr1 fit --resume RUN_ID` goes on"
    with pytest.raises(UserError, match=words):
        logger.log_metrics({"train/loss": 1.0}, step=0)
    assert "is away" not in capsys.readouterr().out
    assert not logger.experiment.spool(logger.run_id).folder.exists()


def test_a_spool_that_cannot_be_written_is_one_sentence(logger, server, workspace) -> None:
    (workspace / "mlruns" / "spool").write_text("in the way")
    server.up = False
    with pytest.raises(UserError, match="cannot be kept while sqlite.*; make room, then `regionr1"):
        logger.log_metrics({"train/loss": 1.0}, step=0)


def test_passwords_are_neither_kept_nor_shown(workspace, capsys, monkeypatch) -> None:
    uri = f"http://me:s3cret@127.0.0.1:{free_port()}"
    client = SpoolingClient(uri, workspace / "spool")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client.set_tag("0123", "colour", "red")
    kept = [path.read_text() for path in (workspace / "spool").rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to http://me:...@127") as caught:
        upload(workspace / "spool" / "0123")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="took 0 of 1 records") as again:
        upload(workspace / "spool" / "0123")
    out = capsys.readouterr().out
    assert "me:***@127.0.0.1" in out
    for text in (*kept, out, str(caught.value), str(again.value)):
        assert "s3cret" not in text
