"""An MLflow client that outlives its server.

While the server is away, what would be logged is kept in a folder, in order, and training goes on.
When the server is back, the folder is sent first. If it stays away, the folder stays, and
`regionr1 upload FOLDER` sends it later.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from regionr1.errors import HIDDEN, UserError, redacted, sentence
from regionr1.files import read_json, write_json, write_text
from regionr1.tracking.refusals import is_away, refusal
from regionr1.tracking.store import sqlite_file

RETRY_S = (5.0, 15.0, 30.0, 60.0)  # between attempts while the server is away
RECORDS, FILES, SENT, STORE = "records.jsonl", "files", "sent", "store.json"


class Spool:
    """Records of one run in a folder.

    Args:
        folder: The folder; it exists only while it holds something.
        tracking_uri: Where its records belong.
    """

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        self.folder = folder
        self.tracking_uri = tracking_uri

    def __len__(self) -> int:
        return sum(record is not None for record in self.waiting())

    def waiting(self) -> list[dict[str, Any] | None]:
        """Records that were not sent yet, oldest first; None for a line that was half written."""
        path = self.folder / RECORDS
        if not path.is_file():
            return []
        lines = path.read_bytes().split(b"\n")
        if not lines[-1]:
            lines.pop()
        return [_record(line) for line in lines[self._sent() :]]

    def _sent(self) -> int:
        path = self.folder / SENT
        return int(path.read_text()) if path.is_file() else 0

    def keep(self, record: Mapping[str, Any], source: Path | None = None) -> None:
        """Adds a record, with a copy of the file or folder it speaks of.

        Raises:
            UserError: The disk is full or the folder cannot be written.
        """
        record = dict(record)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / STORE, {"tracking_uri": redacted(self.tracking_uri)})
            if source is not None:
                number = len(list((self.folder / FILES).glob("*")))
                copy = self.folder / FILES / f"{number:06d}" / source.name
                copy.parent.mkdir(parents=True)
                (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
                record["source"] = str(copy.relative_to(self.folder))
            with (self.folder / RECORDS).open("ab") as file:
                # A line that a kill or a full disk cut short must not swallow this one.
                cut = file.tell() > 0 and not self._ends_well()
                file.write(b"\n" * cut + json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"{self.folder}: what the run logs cannot be kept while "
                f"{redacted(self.tracking_uri)} is away ({error.strerror or error}); "
                f"make room, then `regionr1 fit --resume {record['run_id']}` goes on"
            ) from error

    def _ends_well(self) -> bool:
        with (self.folder / RECORDS).open("rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"

    def send(self, client: "SpoolingClient") -> int:
        """Sends what waits and removes the folder; stops at the first error.

        Returns:
            How many lines were half written, and so lost.

        Raises:
            UserError: A record is not one of this run and folder.
        """
        sent, lost = self._sent(), 0
        for record in self.waiting():
            if record is None:
                lost += 1
            else:
                client.deliver(record, self._source(record))
            sent += 1
            write_text(self.folder / SENT, str(sent))
        shutil.rmtree(self.folder, ignore_errors=True)
        if lost:
            print(f"{lost} records were cut short by a kill or a full disk, and are lost")
        return lost

    def _source(self, record: Mapping[str, Any]) -> Path | None:
        """The file that a record speaks of: a copy in this folder and nothing else."""
        name, into = record.get("source"), str(record.get("artifact_path") or "")
        files = (self.folder / FILES).resolve()
        source = None if name is None else (self.folder / str(name)).resolve()
        links = [] if source is None else [path for path in source.rglob("*") if path.is_symlink()]
        strange = (
            record.get("run_id") != self.folder.name
            or (source is not None and (files not in source.parents or links))
            or (source is None) == str(record.get("op")).startswith("log_artifact")
            or Path(into).is_absolute()
            or ".." in Path(into).parts
        )
        if strange:
            raise UserError(
                f"{self.folder / RECORDS}: a record names another run, or a file outside its "
                "folder; it was not written by this run, and nothing more of it is sent"
            )
        return source


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class SpoolingClient(MlflowClient):
    """Logs to a server, or to a spool while it is away.

    Args:
        tracking_uri: The server.
        folder: Where the spools of runs are kept.
    """

    def __init__(self, tracking_uri: str, folder: Path) -> None:
        super().__init__(tracking_uri)
        self.folder = folder
        self.uri = tracking_uri
        self.failures = 0
        self.next_try = 0.0
        self.writing = threading.RLock()  # metrics come from the system's monitor too

    def spool(self, run_id: str) -> Spool:
        """The spool of a run."""
        return Spool(self.folder / run_id, self.uri)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = None,
    ) -> Any:
        """Logs metrics, parameters and tags; asynchronous batches are left to MLflow."""
        if synchronous is False:
            return super().log_batch(run_id, metrics, params, tags, synchronous)
        return self._write(
            {
                "op": "log_batch",
                "run_id": run_id,
                "metrics": [[m.key, m.value, m.timestamp, m.step] for m in metrics],
                "params": [[param.key, redacted(str(param.value))] for param in params],
                "tags": [[tag.key, redacted(str(tag.value))] for tag in tags],
            }
        )

    def set_tag(self, run_id: str, key: str, value: object, synchronous: bool | None = None) -> Any:
        """Set a tag, through the spool like everything else."""
        return self.log_batch(run_id, tags=[RunTag(key, str(value))])

    def set_terminated(
        self, run_id: str, status: str | None = None, end_time: int | None = None
    ) -> None:
        """Ends a run with the time of this call, whenever the record is sent."""
        end = int(time.time() * 1000) if end_time is None else end_time
        self._write({"op": "set_terminated", "run_id": run_id, "status": status, "end_time": end})

    def log_artifact(self, run_id: str, local_path: Any, artifact_path: str | None = None) -> None:
        """Logs a file; MLflow logs texts, pictures and tables through this method too."""
        record = {"op": "log_artifact", "run_id": run_id, "artifact_path": artifact_path}
        self._write(record, Path(local_path))

    def log_artifacts(self, run_id: str, local_dir: Any, artifact_path: str | None = None) -> None:
        """Upload the files of a folder, through the spool like everything else."""
        record = {"op": "log_artifacts", "run_id": run_id, "artifact_path": artifact_path}
        self._write(record, Path(local_dir))

    def flush(self, run_id: str, patience_s: float = 0.0) -> int:
        """Sends what waits, trying for a while; returns how many records still wait."""
        end = time.monotonic() + patience_s
        while len(self.spool(run_id)):
            self.next_try = 0.0
            if self._catch_up(run_id):
                break
            if time.monotonic() >= end:
                break
            time.sleep(min(1.0, patience_s))
        return len(self.spool(run_id))

    def deliver(self, record: Mapping[str, Any], source: Path | None) -> None:
        """Sends one record."""
        run_id, op = record["run_id"], record["op"]
        if op == "log_batch":
            super().log_batch(
                run_id,
                [Metric(*fields) for fields in record["metrics"]],
                [Param(*fields) for fields in record["params"]],
                [RunTag(*fields) for fields in record["tags"]],
            )
        elif op == "set_terminated":
            super().set_terminated(run_id, record["status"], record["end_time"])
        elif op == "log_artifact":
            super().log_artifact(run_id, str(source), record["artifact_path"])
        elif op == "log_artifacts":
            super().log_artifacts(run_id, str(source), record["artifact_path"])
        else:
            raise UserError(f"a spool's record asks for {op!r}, which is no way to log")

    def _write(self, record: Mapping[str, Any], source: Path | None = None) -> None:
        with self.writing:
            spool = self.spool(record["run_id"])
            if self._catch_up(record["run_id"]):
                try:
                    self.deliver(record, source)
                    return
                except Exception as error:
                    if not is_away(error):
                        raise refusal(self.uri, error) from error
                    self._postpone(spool)
            spool.keep(record, source)

    def _catch_up(self, run_id: str) -> bool:
        """Sends what waits, if it is time to try; returns whether nothing waits any more."""
        with self.writing:
            spool = self.spool(run_id)
            if not (spool.folder / RECORDS).is_file():
                return True
            if time.monotonic() < self.next_try:
                return False
            try:
                count = len(spool)
                spool.send(self)
            except UserError:
                raise
            except Exception as error:
                if not is_away(error):
                    raise refusal(self.uri, error) from error
                self._postpone(spool)
                return False
            self.failures = 0
            print(f"the tracking server is back: {count} kept records sent")
            return True

    def _postpone(self, spool: Spool) -> None:
        if self.failures == 0:
            print(
                f"the tracking server {redacted(self.uri)} is away; "
                "what is logged is kept in a spool"
            )
        wait = RETRY_S[min(self.failures, len(RETRY_S) - 1)]
        self.failures += 1
        self.next_try = time.monotonic() + wait


def open_client(tracking_uri: str) -> SpoolingClient:
    """Make a client whose spool lies beside a sqlite file, else in mlruns/."""
    path = sqlite_file(tracking_uri)
    return SpoolingClient(tracking_uri, (Path("mlruns") if path is None else path.parent) / "spool")


def upload(folder: Path, tracking_uri: str | None = None) -> None:
    """Send what a run logged while its tracking server was away.

    Args:
        folder: Spool of a run, as the run named it at its end.
        tracking_uri: Another server than the one the run had; it must know the run.
    """
    if not (folder / STORE).is_file():
        raise UserError(f"{folder} is no spool of a run; give the folder that the run named")
    kept = str(read_json(folder / STORE, "give the folder that the run named")["tracking_uri"])
    uri = tracking_uri or kept
    if redacted(uri) == uri == kept and HIDDEN in kept:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if redacted(uri) != kept:
            raise UserError(
                f"{folder}: passwords are not kept; set MLFLOW_TRACKING_URI to {kept} with its own"
            )
    spool = Spool(folder, uri)
    count = len(spool)
    try:
        spool.send(SpoolingClient(uri, folder.parent))
    except UserError:
        raise
    except Exception as error:  # of the network or of the server, which says why
        reason = sentence(error)[:300]
        raise UserError(
            f"{redacted(uri)} took {count - len(spool)} of {count} records and then failed "
            f"({reason}); give the same command again"
        ) from error
    print(f"sent {count} records to {redacted(uri)}")
