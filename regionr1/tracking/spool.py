"""An MLflow client that outlives its server.

While the server is away, what would be logged is kept in a folder, in order, and training goes on.
When the server is back, the folder is sent first. If it stays away, the folder stays, and
`regionr1 upload FOLDER` sends it later.
"""

import json
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from regionr1.errors import UserError
from regionr1.files import write_json, write_text

AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
RETRY_S = (5.0, 15.0, 30.0, 60.0)  # between attempts while the server is away
RECORDS, FILES, SENT, STORE = "records.jsonl", "files", "sent", "store.json"


def is_away(error: Exception) -> bool:
    """Whether an error means that the server cannot be reached, rather than that it refuses."""
    if isinstance(error, MlflowException):
        return error.error_code in AWAY
    response = getattr(error, "response", None)
    if response is not None:  # of requests, which artifacts go by
        return response.status_code >= 500
    return isinstance(error, OSError)


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
        return len(self.waiting())

    def waiting(self) -> list[dict[str, Any]]:
        """Records that were not sent yet, oldest first."""
        path = self.folder / RECORDS
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[self._sent() :]]

    def _sent(self) -> int:
        path = self.folder / SENT
        return int(path.read_text()) if path.is_file() else 0

    def keep(self, record: Mapping[str, Any], source: Path | None = None) -> None:
        """Adds a record, with a copy of the file or folder it speaks of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STORE, {"tracking_uri": self.tracking_uri})
        record = dict(record)
        if source is not None:
            number = len(list((self.folder / FILES).glob("*")))
            copy = self.folder / FILES / f"{number:06d}" / source.name
            copy.parent.mkdir(parents=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
            record["source"] = str(copy.relative_to(self.folder))
        with (self.folder / RECORDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def send(self, client: "SpoolingClient") -> None:
        """Sends what waits and removes the folder; stops at the first error."""
        sent = self._sent()
        for record in self.waiting():
            source = record.get("source")
            client.deliver(record, None if source is None else self.folder / source)
            sent += 1
            write_text(self.folder / SENT, str(sent))
        shutil.rmtree(self.folder, ignore_errors=True)


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
        return self._write({
            "op": "log_batch", "run_id": run_id,
            "metrics": [[m.key, m.value, m.timestamp, m.step] for m in metrics],
            "params": [[param.key, str(param.value)] for param in params],
            "tags": [[tag.key, str(tag.value)] for tag in tags],
        })  # fmt: skip

    def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> Any:
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
        else:
            super().log_artifacts(run_id, str(source), record["artifact_path"])

    def _write(self, record: Mapping[str, Any], source: Path | None = None) -> None:
        with self.writing:
            spool = self.spool(record["run_id"])
            if self._catch_up(record["run_id"]):
                try:
                    self.deliver(record, source)
                    return
                except Exception as error:  # those that are not for us are raised again
                    if not is_away(error):
                        raise
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
            except Exception as error:
                if not is_away(error):
                    raise
                self._postpone(spool)
                return False
            self.failures = 0
            print(f"the tracking server is back: {count} kept records sent")
            return True

    def _postpone(self, spool: Spool) -> None:
        if self.failures == 0:
            print(f"the tracking server {self.uri} is away; what is logged is kept in a spool")
        wait = RETRY_S[min(self.failures, len(RETRY_S) - 1)]
        self.failures += 1
        self.next_try = time.monotonic() + wait


def upload(folder: Path, tracking_uri: str | None = None) -> None:
    """Send what a run logged while its tracking server was away.

    Args:
        folder: Spool of a run, as the run named it at its end.
        tracking_uri: Another server than the one the run had; it must know the run.
    """
    if not (folder / STORE).is_file():
        raise UserError(f"{folder} is no spool of a run; give the folder that the run named")
    uri = tracking_uri or json.loads((folder / STORE).read_text())["tracking_uri"]
    spool = Spool(folder, uri)
    count = len(spool)
    try:
        spool.send(SpoolingClient(uri, folder.parent))
    except Exception as error:  # of the network or of the server, which says why
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{uri} took {count - len(spool)} of {count} records and then failed ({reason}); "
            "give the same command again"
        ) from error
    print(f"sent {count} records to {uri}")
