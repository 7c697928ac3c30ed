"""Records with the right checksum and the wrong content, as another program or a changed copy writes them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from tests.conftest import Inside
from tests.results.records import alignment_record, archive_of, counts, keep_alignments, record
from tests.results.test_networks import network
from tpbench.engine import TpbenchError
from tpbench.results import RunDefinition, RunRecord, RunStore
from tpbench.results.alignments import AlignmentRecord, read_alignments
from tpbench.results.artifacts import with_checksum
from tpbench.results.frames import export_frame
from tpbench.results.networks import TrainedNetwork, WrongNetwork, arrays_digest
from tpbench.results.schemas import AlignmentFile, DefinitionFields, NetworkFields, RunFields
from tpbench.results.summaries import summarised

LONG = 10**400
HALF = "\ud800"
"""Half of a pair of surrogates, which JSON can spell and no encoding has."""


def changed(body: Mapping[str, Any], place: str, value: object) -> dict[str, Any]:
    """A copy of plain data with another value at a place such as ``definition.seed``; ``curves.`` has an empty name."""
    copied: dict[str, Any] = json.loads(json.dumps(body))
    *folders, name = place.split(".")
    inside = copied
    for folder in folders:
        inside = inside[folder]
    inside[name] = value
    return copied


def forged(place: str, value: object, run: RunRecord | None = None) -> tuple[str, str]:
    """The id and the file of a run that says something else at a place, with the right id and checksum for it."""
    body = json.loads((run or record("dtp", 7)).to_json())
    del body["checksum"]
    body = changed(body, place, value)
    if place.startswith("definition."):
        # Of some of these nothing has an id.
        with suppress(ValueError, TypeError, OverflowError, AttributeError, RecursionError):
            body["id"] = RunDefinition(**body["definition"]).id
    return str(body["id"]), json.dumps(with_checksum(body))


FORGED: list[tuple[str, Any]] = [
    *[("data_label", value) for value in (None, 5, [], HALF)],
    *[("provenance", value) for value in (None, 5, [], "x", {"precision": 5}, {"precision": []}, {"note": 2**70})],
    *[("provenance.command", value) for value in (HALF, 5, {})],
    *[(f"definition.{name}", value) for name in ("workload", "method") for value in (None, 5, [], "", HALF)],
    *[("definition.fingerprint", value) for value in (5, None)],
    *[("definition.epochs", value) for value in ("a", None, 0, -1, 1, 2.5, True, 10**30, 2**63, 10**7)],
    *[("definition.seed", value) for value in ([], "0", -1, 2**70, 0.0, True)],
    *[("definition.protocol", value) for value in ("1", None, 0)],
    *[("definition.precision", value) for value in (None, 32, "")],
    *[("definition.method_source", value) for value in (None, 1)],
    *[("definition.configuration", value) for value in (None, [], "lr", {"lr": "0.1"}, {"lr": None}, {"lr": True})],
    *[("definition.configuration", value) for value in ({"lr": [0.1]}, {"lr": LONG}, {HALF: 0.1})],
    *[("curves", value) for value in (None, [], {}, {"validation_error": [0.1]}, {"no_curve": [0.1, 0.2]})],
    *[("curves.validation_error", value) for value in (["nan", "0.1"], [0.1], 0.1, [LONG, 0.1], [0.1, None])],
    *[("curves.test_error", value) for value in ([-0.1, 0.1], [1.5, 0.2], [True, 0.1], [0.1] * 101)],
    *[("curves.train_loss", value) for value in ([0.1], ["x", "y"])],
    *[("wall_time_s", value) for value in ("abc", None, LONG, -1.0, True)],
    *[("pack_members", value) for value in (None, "1", 0, 1.5, 2**70)],
    *[("status", value) for value in (None, "stopped", "", 3)],
    *[("selected_epoch", value) for value in ("1", -1)],
    *[("test_error", value) for value in ("0.1", 7.0)],
    *[("found", value) for value in (None, [], "search", {"by": 5}, {"trials": "x"}, {"seeds": ["0"]}, {"sweep": []})],
    *[("workload", value) for value in (None, [], "x")],
    ("id", "0" * 24),
    ("id", 5),
    ("format", True),
    ("format", "1"),
    ("format", 0),
]
NAMES = [f"{place}={str(value)[:20]!a}" for place, value in FORGED]


@pytest.mark.parametrize(("place", "value"), FORGED, ids=NAMES)
def test_a_forged_run_is_damaged_and_told_in_one_line(place: str, value: Any) -> None:
    with pytest.raises(TpbenchError) as told:
        RunRecord.from_json(forged(place, value)[1], "x.json")
    message = str(told.value)
    assert message.startswith("x.json: ")
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize(
    "text", ['{"checksum": 1e999}', "[" * 100_000, "1" * 5000, '{"a": NaN}', "[]", '{"checksum": {}}', "null"]
)
def test_json_of_any_other_kind_is_damaged(text: str) -> None:
    for read in (RunRecord.from_json, AlignmentRecord.from_json):
        with pytest.raises(TpbenchError):
            read(text, "x.json")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Three whole runs, and every forged one that can have a name of its own."""
    made = RunStore(tmp_path / "results")
    for seed in range(3):
        made.publish(record("bp", seed))
    made.publish(record("dfa", 0, [], status="diverged"))
    for number, (place, value) in enumerate(FORGED):
        run_id, text = forged(place, value, record("dtp", 100 + number))
        name = run_id if re.fullmatch("[0-9a-f]{24}", run_id) else f"{number:024x}"
        made.path(name).write_text(text)
    return made


@pytest.mark.parametrize(
    "command",
    [
        ("leaderboard",),
        ("leaderboard", "--format", "csv", "--write"),
        ("table", "s6"),
        ("table", "loss"),
        ("report",),
        ("results", "export", "runs.csv"),
        ("results", "export", "runs.parquet"),
        ("results", "pack", "runs.zip"),
        ("results", "merge", "results", "into"),
        ("compare", "bp", "dfa"),
        ("plot", "forest", "mnist"),
    ],
    ids=" ".join,
)
def test_forged_runs_are_named_and_not_counted(
    store: RunStore, tpbench_inside: Inside, command: tuple[str, ...], tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in store.runs.iterdir()}
    ended = tpbench_inside(*command)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    if command != ("report",):  # the page has them
        assert ended.stderr.count("warning: ") == len(before) - 4
    if "csv" in command:
        assert ended.stdout.count("\n") == 3
    if "runs.csv" in command:
        assert (tmp_path / "runs.csv").read_text().count("\n") == 5
    if "into" in command:
        assert len(list((tmp_path / "into" / "runs").iterdir())) == 4
    assert {path.name: path.read_bytes() for path in store.runs.iterdir()} == before


def test_check_names_every_forged_run_and_an_archive_of_them(store: RunStore, tpbench_inside: Inside) -> None:
    forgeries = [
        path for path in store.runs.iterdir() if path.stem not in {run.definition.id for run in store.records()}
    ]
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert all(path.name in checked.stderr for path in forgeries)
    assert counts(checked.stdout)[:2] == [4, len(forgeries)]
    (store.folder / "a.zip").write_bytes(archive_of(others={f"runs/{p.name}": p.read_bytes() for p in forgeries}))
    archived = RunStore(store.folder)
    assert len(list(archived.records())) == 4
    assert sum("a.zip" in message for message in archived.damaged) == len(forgeries)


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([LONG, HALF, 2**63, "", "bp", 1.0, 0]),
        st.text(max_size=5),
        st.lists(st.floats(0, 1), max_size=3),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
PLACES = [
    "data_label",
    "status",
    "wall_time_s",
    "pack_members",
    "provenance",
    "provenance.torch",
    "provenance.precision",
    "found",
    "workload",
    "workload.epochs",
    "curves",
    "curves.train_loss",
    "curves.validation_error",
    "definition",
    *(f"definition.{field.name}" for field in fields(RunDefinition)),
    "definition.configuration.lr",
]


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=plain)
def test_what_is_read_can_be_counted_and_written_again(place: str, value: object) -> None:
    run = replace(record("dtp", 7), workload={"epochs": 3})
    try:
        read = RunRecord.from_json(forged(place, value, run)[1], "x.json")
    except TpbenchError:
        return
    except ValueError as error:
        assert "JSON compliant" in str(error)  # noqa: PT017 (not a number: no checksum can be made of it)
        return
    assert RunRecord.from_json(read.to_json(), "x.json") == read
    read.to_json().encode()
    frame = export_frame([read, record()])
    frame.to_csv().encode()
    frame.to_parquet()
    assert summarised(read).test_error == read.test_error


def test_the_models_know_every_field() -> None:
    """A field that is added to a record must be added to its model, or every file that has it is damaged."""

    def names(record: type) -> set[str]:
        return {field.name for field in fields(record)}

    assert set(DefinitionFields.model_fields) == names(RunDefinition)
    assert set(RunFields.model_fields) == names(RunRecord) - {"versions", "digest_of_curves", "search_info"} | {"found"}
    assert set(AlignmentFile.model_fields) == names(AlignmentRecord)
    assert set(NetworkFields.model_fields) == names(TrainedNetwork) - {"arrays"}


ANGLES: list[tuple[str, Any]] = [
    *[("epochs", value) for value in (10**30, 10**7, "x", 0, 1)],
    *[("steps", value) for value in (["x"] * 6, [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 99], [0.5] * 6, None)],
    *[("seeds", value) for value in ([], ["0", "1"], [LONG, 1], None)],
    *[("workload", value) for value in (5, "", HALF, None)],
    *[("data_label", value) for value in (5, HALF)],
    *[("dampings", value) for value in ([0.0, "x", 1.0, 10.0], [0.0, LONG, 1.0, 2.0], [0.0, -1.0, 1.0, 2.0], None)],
    *[("loss_angles", value) for value in (None, [], [[["30"]]], [[[LONG]]], [[[400.0]]])],
    *[("provenance", value) for value in (None, 5, [])],
    ("steps_per_epoch", 10**30),
    ("every", 0),
    ("every", "1"),
    ("method", HALF),
]


@pytest.mark.parametrize(("place", "value"), ANGLES, ids=[f"{p}={str(v)[:20]!a}" for p, v in ANGLES])
def test_a_forged_alignment_record_is_damaged(place: str, value: Any) -> None:
    body = {"format": 1, **asdict(alignment_record("digits", "dtp", [0.0, 1.0]))}
    with pytest.raises(TpbenchError, match=r"x\.json: ") as told:
        AlignmentRecord.from_json(json.dumps(with_checksum(changed(body, place, value))), "x.json")
    assert str(told.value).isprintable()


def test_forged_alignment_records_are_named_and_not_shown(tmp_path: Path, tpbench_inside: Inside) -> None:
    good = alignment_record("digits", "dtp", [0.0, 1.0])
    keep_alignments(tmp_path / "results", good)
    RunStore(tmp_path / "results").publish(record())
    for number, (place, value) in enumerate(ANGLES):
        body = changed({"format": 1, **asdict(good)}, place, value)
        (tmp_path / "results" / "alignment" / f"digits-x-{number:012x}.json").write_text(
            json.dumps(with_checksum(body))
        )
    assert list(read_alignments(RunStore(tmp_path / "results")).values()) == [good]
    for command in (
        ("table", "angles"),
        ("report",),
        ("results", "pack", "a.zip"),
        ("results", "merge", "results", "b"),
    ):
        assert tpbench_inside(*command).returncode == 0
    checked = tpbench_inside("results", "check")
    assert counts(checked.stdout)[-2:] == [1, len(ANGLES)]


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": []},
        {"sizes": [2]},
        {"sizes": ["2", "3", "2"]},
        {"sizes": [2, 3]},
        {"sizes": [2, 3, 0]},
        {"scale": "0.1"},
        {"shift": None},
        {"selected_epoch": "1"},
        {"selected_epoch": -1},
        {"validation_error": "x"},
        {"test_error": 3.0},
        {"workload": 5},
        {"workload": []},
        {"method": HALF},
        {"seed": "0"},
        {"seed": LONG},
        {"format": 0},
        {"format": "1"},
        {"format": True},
        {"run": "../x"},
        {"curves": None},
        {"tpbench": 3},
    ],
    ids=ascii,
)
def test_a_forged_network_is_damaged(change: dict[str, Any]) -> None:
    made = network(record())
    about = {f.name: getattr(made, f.name) for f in fields(made) if f.name != "arrays"}
    about |= {"format": 1, "sizes": list(made.sizes), "arrays": arrays_digest(made.arrays)}
    whole = save(dict(made.arrays), {"tpbench": json.dumps(with_checksum(about))})
    assert TrainedNetwork.from_bytes(whole, "x").run == made.run
    with pytest.raises(WrongNetwork):
        TrainedNetwork.from_bytes(save(dict(made.arrays), {"tpbench": json.dumps(with_checksum(about | change))}), "x")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("holders", []),
        ("holders", {"x": []}),
        ("holders", {"a.zip": 5}),
        *[
            (f"holders.FILE.1.ID.{name}", value)
            for name, value in [
                ("curves", None),
                ("curves", {"test_error": ["x"]}),
                ("provenance", 5),
                ("definition", {}),
                ("status", []),
                ("definition", None),
                ("found", None),
                ("workload", 3),
                ("wall_time_s", "x"),
                ("data_label", None),
            ]
        ],
        ("holders.FILE.0", 5),
        ("holders.FILE", []),
        ("holders.FILE", {}),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_cache_with_other_content_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tpbench_inside: Inside, place: str, value: Any
) -> None:
    monkeypatch.setenv("TPBENCH_CACHE", str(tmp_path / "cache"))
    run = record()
    RunStore(tmp_path / "results").publish(run)
    expected = RunStore(tmp_path / "results").summaries()
    (kept,) = (tmp_path / "cache" / "summaries").glob("*.json")
    whole = kept.read_bytes()
    body = json.loads(whole.partition(b"\n")[2])
    names = {"ID": run.definition.id, "FILE": f"{run.definition.id}.json"}
    *folders, name = [names.get(part, part) for part in place.split(".")]
    inside: Any = body
    for folder in folders:
        inside = inside[int(folder) if isinstance(inside, list) else folder]
    inside[int(name) if isinstance(inside, list) else name] = value
    text = json.dumps(body).encode()
    kept.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    assert RunStore(tmp_path / "results").summaries() == expected
    assert kept.read_bytes() == whole
    assert tpbench_inside("leaderboard").returncode == 0


def test_a_store_whose_path_is_no_text_is_read_and_kept_in_the_cache(
    tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPBENCH_CACHE", str(tmp_path / "cache"))
    name = os.fsdecode(b"a\xff")
    try:
        RunStore(tmp_path / name).publish(record())
    except TpbenchError:
        pytest.skip("this file system has no such names")
    for command in (
        ("leaderboard",),
        ("leaderboard", "--write"),
        ("table", "s6"),
        ("results", "check"),
        ("report", "--output", os.fsdecode(b"by\xff.html")),
        ("results", "export", os.fsdecode(b"\xff.csv")),
    ):
        ended = tpbench_inside(*command, "--results", name)
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / name / "leaderboard.csv").exists()
    assert (tmp_path / os.fsdecode(b"by\xff.html")).read_text(encoding="utf-8")
    monkeypatch.setattr(
        RunStore, "_read_each", lambda _, kind, ids: pytest.fail("it was read again") if ids else iter(())
    )
    assert len(RunStore(tmp_path / name).summaries()) == 1


def test_what_this_version_writes_about_such_paths_can_be_read(tmp_path: Path, tpbench_inside: Inside) -> None:
    config = os.fsdecode(b"c\xff.yaml")
    (tmp_path / config).write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    trained = tpbench_inside("run", "digits", "bp", "--config", config, "--seeds", "0", "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    (run,) = RunStore(tmp_path / "results").records()
    assert run.provenance["command"].isprintable()
