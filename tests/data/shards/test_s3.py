"""Shards in S3, read from a real server on this machine."""

import shutil
import socket
import sys
from pathlib import Path

import pytest
from evqa_files import make_shards
from remote_shards import check_the_same_samples, check_two_ranks_of_two_workers, keys

from regionr1.data.build.stages import AddScorer
from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.data.shards.index import load_index, verify_index
from regionr1.data.shards.location import as_location
from regionr1.errors import UserError
from regionr1.scorers.builtin import PixelScorer

SIZES = {"train": 22, "val": 10, "test": 12}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evqa")
    out = make_shards(root, SIZES)
    AddScorer(shards=out, root=root, scorer="pixels", splits=("test",)).run()
    return out


@pytest.fixture
def stored(shards, monkeypatch):
    """A client, and a bucket that holds the shards under `some/shards`."""
    reason = "moto, a local S3 server, is not installed; it is in the extra 'dev'"
    server_of = pytest.importorskip("moto.server", reason=reason)
    import boto3

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"), ("AWS_MAX_ATTEMPTS", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    server = server_of.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="bucket")
    for path in shards.rglob("*.*"):
        if path.is_file():
            name = path.relative_to(shards).as_posix()
            client.upload_file(str(path), "bucket", f"some/shards/{name}")
    yield client
    server.stop()


URL = "s3://bucket/some/shards"


def test_the_same_samples_as_in_the_folder(stored, shards, capsys) -> None:
    check_the_same_samples(URL, shards, capsys)
    data = RerankDataModule(URL + "/", eval_batch_size=5)
    data.setup("test")
    assert data.use_scorer("test", PixelScorer().fingerprint())
    batches = list(data.test_dataloader())
    assert [key for batch in batches for key in batch.keys] == keys(shards)
    assert batches[0].candidates.shape[2] == PixelScorer.dim


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_two_ranks_of_two_workers(stored, start_method) -> None:
    check_two_ranks_of_two_workers(URL, start_method)


def test_missing_and_damaged(stored, monkeypatch) -> None:
    for url in ("s3://bucket/nowhere", "s3://nowhere/shards"):
        with pytest.raises(UserError, match=r"test\.index\.json: cannot be read \(.* not exist"):
            load_index(as_location(url), "test")
    location, key = as_location(URL), "some/shards/test-000001.tar"
    good = stored.get_object(Bucket="bucket", Key=key)["Body"].read()
    stored.put_object(Bucket="bucket", Key=key, Body=good[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"test-000001\.tar: shard content was altered"):
        verify_index(location, "test", checksums=True)
    stored.put_object(Bucket="bucket", Key=key, Body=good[:3000])
    with pytest.raises(UserError, match=r"test-000001\.tar: shard (is corrupt|ends) after"):
        keys(location)
    stored.delete_object(Bucket="bucket", Key=key)
    with pytest.raises(UserError, match=r"test-000001\.tar: cannot be read .*does not exist"):
        keys(location)
    with pytest.raises(UserError, match=r"test-000001\.tar: cannot be read .*does not exist"):
        verify_index(location, "test", checksums=True)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match=r"cannot be read \(Could not connect to the endpoint"):
        load_index(location, "test")


def test_a_connection_that_breaks(stored, monkeypatch) -> None:
    """The server promises more than it sends."""
    from botocore.response import StreamingBody

    whole = StreamingBody.__init__
    monkeypatch.setattr(StreamingBody, "__init__", lambda s, raw, n: whole(s, raw, int(n) + 1))
    with pytest.raises(UserError, match=r"test\.index\.json: cannot be read \(.*bytes"):
        load_index(as_location(URL), "test")


def test_without_boto3_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserError, match="reading from S3 needs boto3; install it with"):
        load_index(as_location(URL), "test")


def test_a_pipe_reads_it_too(stored, shards) -> None:
    if shutil.which("aws") is None:
        pytest.skip("the AWS command line is not installed")
    assert keys(as_location(f"pipe:aws s3 cp {URL}/{{name}} -")) == keys(shards)
