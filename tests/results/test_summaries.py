"""The cache of summaries: tables are the same with it and without, and it never counts for more than the files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.results.records import archive_of, record
from tests.results.test_location import s3  # noqa: F401 (a fixture)
from tpbench.reports.page import make_report
from tpbench.results import RunStore, leaderboard
from tpbench.results.artifacts import ArtifactKind
from tpbench.results.location import location
from tpbench.results.runs import RUNS
from tpbench.results.summaries import summarised


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run files that were read, by stem."""
    seen: list[str] = []
    read = ArtifactKind.read

    def counted(kind: ArtifactKind[Any], path: Path) -> Any:
        seen.extend([path.stem] if kind is RUNS else [])
        return read(kind, path)

    monkeypatch.setattr(ArtifactKind, "read", counted)
    return seen


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TPBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "summaries"


STORED = [record(method, seed, [0.5, 0.02 + seed / 1000, 0.3]) for method in ("bp", "dtp") for seed in range(4)]
STORED.append(record("tp", errors=[], status="diverged"))


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    for run in STORED[:6]:
        RunStore(tmp_path / "results").publish(run)
    (tmp_path / "results" / "more.zip").write_bytes(archive_of(*STORED[6:]))
    return tmp_path / "results"


def test_a_summary_says_what_tables_ask_for() -> None:
    for run in STORED:
        short = summarised(run)
        assert (short.test_error, short.validation_error) == (run.test_error, run.validation_error)
        assert short.definition == run.definition
        assert all(len(values) <= 1 for values in short.curves.values())


def test_the_second_time_nothing_is_read_and_the_tables_are_the_same(
    folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunStore(folder).summaries()
    assert first == [summarised(run) for run in RunStore(folder).records()]
    board = leaderboard(RunStore(folder))
    reads.clear()
    monkeypatch.setattr("tpbench.results.archives._open", lambda path: pytest.fail("the archive was opened"))
    assert RunStore(folder).summaries() == first
    assert leaderboard(RunStore(folder)).equals(board)
    assert reads == []


def test_what_is_new_changed_damaged_or_gone_is_seen(folder: Path, reads: list[str]) -> None:
    RunStore(folder).summaries()
    reads.clear()
    store = RunStore(folder)
    new = store.publish(record("gnt"))
    assert len(store.summaries()) == len(STORED) + 1
    assert set(reads) == {new.stem}
    whole = new.read_bytes()
    new.write_bytes(whole[:-20] + b"x" * 20)  # of the same size
    os.utime(new, ns=(1, 1))
    store = RunStore(folder)
    assert len(store.summaries()) == len(STORED)
    assert new.name in store.damaged[0]
    new.unlink()
    assert len(RunStore(folder).summaries()) == len(STORED)
    (folder / "more.zip").unlink()
    assert len(RunStore(folder).summaries()) == 6


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"0\n{}", None],
)
def test_a_damaged_or_foreign_cache_is_none(folder: Path, cache: Path, reads: list[str], content: bytes | None) -> None:
    first = RunStore(folder).summaries()
    (kept,) = cache.glob("*.json")
    if content is None:  # that of another store
        RunStore(folder.parent / "other").publish(record("gnt"))
        RunStore(folder.parent / "other").summaries()
        (other,) = set(cache.glob("*.json")) - {kept}
        content = other.read_bytes()
    kept.write_bytes(content)
    reads.clear()
    assert RunStore(folder).summaries() == first
    assert len(reads) == len(STORED)
    assert json.loads(kept.read_bytes().partition(b"\n")[2])["store"] == str(folder.resolve())


@pytest.mark.parametrize("trouble", ["file", "no home"])
def test_without_a_cache_folder_all_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    if trouble == "file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("TPBENCH_CACHE", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.delenv("TPBENCH_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert len(RunStore(folder).summaries()) == len(RunStore(folder).summaries()) == len(STORED)


def test_a_report_reads_each_run_once_and_then_those_that_it_draws(folder: Path, reads: list[str]) -> None:
    searched = [record("bp", 0, [0.5, 0.4], lr=lr) for lr in (0.1, 0.2, 0.3)]
    for run in searched:
        RunStore(folder).publish(run)
    make_report(RunStore(folder), "tpbench report")
    assert max(map(reads.count, reads)) == 2
    reads.clear()
    make_report(RunStore(folder), "tpbench report")
    assert sorted(reads) == sorted(run.definition.id for run in STORED)
    assert not {run.definition.id for run in searched} & set(reads)


def test_a_store_in_s3_is_listed_and_not_read_again(s3: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import aiobotocore.client

    store = RunStore(location(s3 + "/summaries"))
    for seed in range(40):
        store.publish(record(seed=seed))
    (store.folder / "more.zip").write_bytes(archive_of(record("dtp")))
    requests: list[str] = []
    send = aiobotocore.client.AioBaseClient._make_api_call

    async def counted(self: object, name: str, arguments: dict[str, object]) -> object:
        requests.append(name)
        return await send(self, name, arguments)

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", counted)
    first = RunStore(location(s3 + "/summaries")).summaries()
    assert len(first) == 41
    assert len(requests) < 60  # one for each run, where there were two; the archive; two listings
    requests.clear()
    assert RunStore(location(s3 + "/summaries")).summaries() == first
    assert len(requests) <= 4
    assert set(requests) == {"ListObjectsV2"}
