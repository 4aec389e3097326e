"""Shards over http, pipes and other processes: the same samples, and clear refusals."""

import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from evqa_files import make_shards
from remote_shards import check_the_same_samples, check_two_ranks_of_two_workers, keys

from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.data.shards.index import load_index, verify_index
from regionr1.data.shards.location import Remote, as_location
from regionr1.errors import UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("evqa"), {"train": 22, "val": 10, "test": 12})


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def served(shards):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(params=["http", "pipe"])
def remote(request, shards, served) -> str:
    return served if request.param == "http" else f"pipe:cat {shards}/{{name}}"


def test_the_same_samples_from_everywhere(shards, remote, capsys) -> None:
    check_the_same_samples(remote, shards, capsys)


def test_datamodule_reads_a_url(shards, remote) -> None:
    module = RerankDataModule(remote, eval_batch_size=5)
    module.setup("test")
    found = [key for batch in module.test_dataloader() for key in batch.keys]
    assert found == keys(shards)


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_two_ranks_of_two_workers_share_remote_shards(served, start_method) -> None:
    check_two_ranks_of_two_workers(served, start_method)


def test_missing_and_damaged_remote_shards(shards, served, tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere/test\.index\.json: cannot be read"):
        load_index(Remote(f"{served}/nowhere"), "test")
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = tmp_path / "test-000000.tar"
    location = as_location(f"pipe:cat {tmp_path}/{{name}}")
    first.write_bytes(first.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"cat .*test-000000\.tar: shard content was altered"):
        verify_index(location, "test", checksums=True)
    first.write_bytes(first.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"test-000000\.tar: shard (is corrupt|ends) after"):
        keys(location)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/shards", "unknown scheme 'ftp'"),
        ("http://host/a b", "a URL may hold letters"),
        ("s3://bucket/$(touch ran)", "a URL may hold letters"),
        ("http://host/'; touch ran; '", "a URL may hold letters"),
        ("pipe:cat shards/", r"a pipe needs \{name\}"),
    ],
)
def test_locations_that_are_refused(text, message) -> None:
    with pytest.raises(UserError, match=message):
        as_location(text)


def test_locations_that_are_not() -> None:
    assert as_location("some/folder") == Path("some/folder")
    assert as_location("s3://bucket/a-b_c/").of("x.tar") == "s3://bucket/a-b_c/x.tar"


@pytest.mark.parametrize("name", ["../secret.tar", "/etc/x-000000.tar", "test-000000.tar; rm x"])
def test_an_index_names_shards_only(shards, tmp_path, name) -> None:
    record = json.loads((shards / "test.index.json").read_text())
    record["shards"][0]["name"] = name
    (tmp_path / "test.index.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no shard's name"):
        load_index(tmp_path, "test")


def test_members_of_a_tar_are_never_written(shards, tmp_path) -> None:
    """Path traversal in a tar has nothing to traverse: members are read, not unpacked."""
    evil = tmp_path / "test-000000.tar"
    with tarfile.open(evil, "w") as tar:
        for name in ("../../escaped.json", "/abs/escaped.json"):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    record = json.loads((shards / "test.index.json").read_text())
    record["shards"] = [{**record["shards"][0], "samples": 2, "bytes": evil.stat().st_size}]
    (tmp_path / "test.index.json").write_text(json.dumps({**record, "n_samples": 2}))
    with pytest.raises(
        UserError, match=r"test-000000\.tar: shard is corrupt .*escaped\.json' is no part"
    ):
        keys(tmp_path)
    assert not list(tmp_path.parent.glob("**/escaped*"))
