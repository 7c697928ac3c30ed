"""Stores at URLs: fsspec's memory, and a local S3 server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import archive_of, counts, of_newer_format, record
from tpbench.engine import TpbenchError, UsageError
from tpbench.results import RunStore
from tpbench.results.artifacts import NewerFormat
from tpbench.results.location import _opened, absolute, location
from tpbench.results.maintenance import Merged, check_store, merge_stores
from tpbench.results.runs import RUNS
from tpbench.search.journal import Journal


@pytest.fixture
def memory() -> Path:
    return location(f"memory://{uuid.uuid4().hex}/store")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memmory://x", "unknown kind of URL 'memmory': did you mean 'memory'?"),
        ("s3://", "a bucket or folder must follow"),
        ("", "must be a path or a URL"),
        ("a\0b", "must be a path or a URL"),
    ],
)
def test_a_wrong_location_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        location(text)
    assert message in str(error.value)


def test_paths_become_absolute_and_urls_stay() -> None:
    assert absolute("results") == str(Path("results").resolve())
    assert absolute("memory://a/b") == "memory://a/b"
    assert location("file:///tmp/x") == Path("/tmp/x")


def test_a_file_url_is_decoded_and_of_this_machine() -> None:
    for url in ("file:///a%20b/c", "file://localhost/a%20b/c", "FILE:/a%20b/c"):
        assert location(url) == Path("/a b/c")
    for url in ("file://results", "file://~/x", "file://elsewhere/x", "file:///a%00b"):
        with pytest.raises(UsageError):
            location(url)


def test_a_home_folder_is_expanded_and_anew_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for home in (tmp_path / "a", tmp_path / "b"):
        monkeypatch.setenv("HOME", str(home))
        assert location("~/r") == home / "r"
        assert absolute("~/r") == str(home.resolve() / "r")


def damage_and_archives(store: RunStore) -> None:
    """Check damage, newer files and archives of a store of any kind."""
    path = store.publish(record(errors=[0.3]))
    before = path.read_bytes()
    store.publish(record(errors=[0.1]))
    assert path.read_bytes() == before
    for number in (1, 2):
        path.write_bytes(before[:-30])
        assert list(store.records()) == []
        assert path.name in store.damaged[0]
        assert len(list(store.runs.glob("*.damaged"))) == number - 1
        store.publish(record(errors=[0.3]))
        assert len(list(store.runs.glob("*.damaged"))) == number
    assert check_store(store)[RUNS].valid == 1
    newer = of_newer_format(record())
    path.write_bytes(newer.encode())
    store.publish(record())
    assert path.read_text() == newer
    with pytest.raises(NewerFormat):
        store.read(path.stem)
    path.unlink()
    (store.folder / "runs.zip").write_bytes(archive_of(record(seed=4)))
    again = RunStore(store.folder)
    assert again.read(record(seed=4).definition.id)
    assert [r.definition.seed for r in again.records()] == [4]


def test_a_store_in_memory_is_like_one_in_a_folder(memory: Path, tmp_path: Path) -> None:
    damage_and_archives(RunStore(tmp_path / "store"))
    damage_and_archives(RunStore(memory))


def test_a_store_in_s3_is_like_one_in_a_folder(s3: str) -> None:
    damage_and_archives(RunStore(location(s3) / "other"))
    assert not RunStore(location(s3) / "absent").exists


def test_stores_merge_across_kinds(memory: Path, tmp_path: Path) -> None:
    local, remote = RunStore(tmp_path), RunStore(memory)
    for seed in range(3):
        local.publish(record(seed=seed))
    assert merge_stores(local, remote) == Merged(new=3)
    assert merge_stores(remote, RunStore(tmp_path / "back")) == Merged(new=3)
    assert list(RunStore(tmp_path / "back").records()) == list(local.records())


def test_a_journal_in_memory_is_read_back(memory: Path) -> None:
    journal = Journal.open(memory / "journal.jsonl")
    journal.add_pack([{"lr": 0.1}])
    journal.end_pack(0, [])
    again = Journal.open(memory / "journal.jsonl")
    assert [pack.outcomes for pack in again.packs] == [[]]


def test_runs_are_trained_into_memory(tpbench_inside: Inside, tmp_path: Path, memory: Path) -> None:
    (tmp_path / "bp.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    arguments = (
        "run",
        "digits",
        "bp",
        "--config",
        "bp.yaml",
        "--seeds",
        "0-1",
        "--epochs",
        "3",
        "--results",
        str(memory),
    )
    first = tpbench_inside(*arguments, "--checkpoint-every", "1")
    assert first.returncode == 0, first.stderr
    assert len(list((memory / "runs").glob("*.json"))) == 2
    assert not list((memory / "checkpoints").glob("*"))  # removed at the end
    assert counts(tpbench_inside(*arguments).stdout)[:2] == [2, 2]
    assert "BP" in tpbench_inside("leaderboard", "--results", str(memory)).stdout
    assert "2 runs" in tpbench_inside("results", "check", "--results", str(memory)).stdout


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3
    import s3fs

    # Both remember the server of an earlier test.
    s3fs.S3FileSystem.clear_instance_cache()
    _opened.cache_clear()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="papers")
    yield "s3://papers/tp"
    server.stop()


def test_a_missing_bucket_is_one_line(s3: str, tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "bp.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    result = tpbench_inside(
        "run", "digits", "bp", "--config", "bp.yaml", "--seeds", "0", "--epochs", "1", "--results", "s3://absent/x"
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "s3://absent/x/runs" in result.stderr


def test_runs_are_trained_into_s3_and_copied_from_there(s3: str, tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "bp.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    options = (
        "--config",
        "bp.yaml",
        "--seeds",
        "0-1",
        "--epochs",
        "3",
        "--checkpoint-every",
        "1",
        "--keep-networks",
        "--results",
        s3,
    )
    first = tpbench_inside("run", "digits", "bp", *options)
    assert first.returncode == 0, first.stderr
    assert counts(tpbench_inside("run", "digits", "bp", *options).stdout)[:2] == [2, 2]
    assert not list((location(s3) / "checkpoints").glob("*"))
    # A sweep's journal too: object stores cannot append.
    journal = Journal.open(location(s3) / "sweeps" / "x" / "journal.jsonl")
    journal.add_pack([{"lr": 0.1}])
    journal.end_pack(0, [])
    assert [pack.outcomes for pack in Journal.open(journal.path).packs] == [[]]
    assert merge_stores(RunStore(location(s3)), RunStore(tmp_path / "copy")) == Merged(new=2, networks=2)


def test_a_url_that_refuses_writing_is_an_error(monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory), "write_bytes", refuse)
    with pytest.raises(TpbenchError, match="Access Denied"):
        RunStore(memory).publish(record())
