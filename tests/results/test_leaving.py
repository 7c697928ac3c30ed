"""Words from files where they leave the program: terminal, CSV, Markdown, LaTeX, Parquet, the report."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import tpbench
from tests.conftest import Inside
from tests.results.records import alignment_record, keep_alignments, record
from tests.test_printing import begin_sweep
from tpbench.engine.errors import visible
from tpbench.results import RunStore
from tpbench.results.formats import csv_number, csv_text, latex, latex_table, markdown, markdown_code
from tpbench.results.runs import PUBLISHED
from tpbench.search.journal import Journal
from tpbench.training.progress import LiveView, NotebookView, PlainView

ACTS = "\x1b]0;pwned\x07 \x9b31m \r\n \u202egnp \ud800 <script>x</script> a|b"
"""Names a terminal's window, colours, begins lines, turns the direction, is no UTF-8, and is HTML."""
BAD = "\x1b\x07\x9b\r\u202e\ud800\x7f"


def holds(text: str) -> list[str]:
    """Return the control characters of a text."""
    return [character for character in BAD if character in text]


def test_what_acts_is_spelled_and_all_else_stays() -> None:
    assert visible("plain é ± 漢字 \N{NO-BREAK SPACE}") == "plain é ± 漢字 \N{NO-BREAK SPACE}"
    assert visible("\x1b[31m\r\n\t\x9b\u202e\ud800") == r"\x1b[31m\r\n\t\x9b\u202e\ud800"
    assert visible("a\nb\tc", keep="\n") == "a\nb\\tc"


# Commands on a store full of such names

RUN = record("bp", 0, [0.3, 0.2], epochs=2)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A store as another program writes it: right checksums, wrong words."""
    store = RunStore(tmp_path / "results")
    for method in ("bp", f"dtp{ACTS}"[:40].replace("\ud800", "")):
        for seed in range(3):
            said = ACTS.replace("\ud800", "")
            made = record(method, seed, [0.3, 0.2 + seed / 100], epochs=2, label=said, workload=f"mnist{said}")
            store.publish(replace(made, provenance={"command": said, "device_name": said, "torch": said}))
    keep_alignments(
        store.folder, replace(alignment_record("mnist", "dtp", [1.0]), data_label=ACTS.replace("\ud800", ""))
    )
    name = "digits\x1b[31m\r\u202e"
    begin_sweep(store.folder, name, f"tpbench sweep 'digits{ACTS}'".replace("\ud800", "").replace("\n", ""))
    Journal.open(store.folder / "sweeps" / name / "journal.jsonl").fail(ACTS.replace("\ud800", ""))
    (store.runs / f"{'0' * 24}.json").write_text(json.dumps({"format": ACTS}))
    return store.folder


READING = {
    "leaderboard": ("leaderboard",),
    "md": ("leaderboard", "--format", "md"),
    "csv": ("leaderboard", "--format", "csv"),
    "latex": ("leaderboard", "--format", "latex"),
    "table": ("table", "s6"),
    "table md": ("table", "s6", "--format", "md"),
    "loss": ("table", "loss"),
    "loss md": ("table", "loss", "--format", "md"),
    "loss csv": ("table", "loss", "--format", "csv"),
    "angles": ("table", "angles"),
    "angles latex": ("table", "angles", "--format", "latex"),
    "sweeps": ("sweeps",),
    "json": ("sweeps", "--json"),
    "check": ("results", "check"),
    "export": ("results", "export", "x\x1b.csv"),
    "pack": ("results", "pack", "x\x1b.zip"),
    "plot": ("plot", "search", "digits\x1b[31m"),
    "config": ("run", "digits", "bp", "--config", "\x1b.yaml"),
    "doctor": ("doctor",),
}


@pytest.mark.parametrize("command", READING)
def test_no_command_lets_a_name_act_on_the_terminal(tpbench_inside: Inside, hostile: Path, command: str) -> None:
    ended = tpbench_inside(*READING[command])
    assert not holds(ended.stdout + ended.stderr)
    assert "Traceback" not in ended.stderr
    assert ended.stdout or ended.stderr


def test_files_hold_no_name_that_acts(tpbench_inside: Inside, hostile: Path, tmp_path: Path) -> None:
    assert tpbench_inside("results", "export", "x.csv").returncode == 0
    text = (tmp_path / "x.csv").read_text()
    assert not holds(text)
    assert len(list(csv.reader(io.StringIO(text)))) == 7
    assert tpbench_inside("leaderboard", "--write").returncode == 0
    assert not holds((hostile / "leaderboard.csv").read_text())
    assert tpbench_inside("report").returncode == 0
    assert not holds((tmp_path / "report.html").read_text())
    for form in ("s6", "loss"):
        said = tpbench_inside("table", form, "--format", "md").stdout
        # In what is code no HTML counts.
        assert "<script" not in re.sub("`[^`]*`", "", said)
        # Its rows stay rows.
        rows = [line for line in said.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in rows)


def test_data_frames_keep_the_words_as_they_are(hostile: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        frame = tpbench.load_runs(hostile)
    assert set(frame["data"]) == {ACTS.replace("\ud800", "")}
    assert told
    assert not holds("".join(str(warning.message) for warning in told))


def test_progress_shows_no_name_that_acts(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    stream = io.StringIO()
    for view in (PlainView(Console(file=stream)), LiveView(Console(file=stream, width=200))):
        view.start(ACTS, 4)
        view.update(ACTS, 4, 4, 0.5)
        view.say(ACTS)
    notebook = NotebookView()
    notebook.lines.append("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "_write", lambda: None)
        notebook.start(ACTS, 4)
        notebook.end(ACTS)
        notebook.say(ACTS)
    assert not holds(stream.getvalue() + "".join(notebook.lines))


# CSV


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-1-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text_in_csv(text: str) -> None:
    frame = pd.DataFrame({"word": [text, "plain"], "number": [-0.5, 1.0], "whole": [-3, 4]})
    lines = list(csv.reader(io.StringIO(csv_text(frame))))
    assert lines[1] == ["'" + visible(text), "-0.5", "-3"]
    assert lines[2] == ["plain", "1.0", "4"]
    assert frame["word"][0] == text


def test_numbers_stay_numbers_in_csv() -> None:
    frame = pd.DataFrame({"mixed": ["-0.5", "-", "-1e-3", None, 7, -2.5], "flag": [True] * 6})
    lines = csv_text(frame).splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["-0.5", "-", "-1e-3", "", "7", "-2.5"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.3e-07, "2.3e-07"), (-2.3e-07, "-2.3e-07"), (0.0, "0.0000"), (0.0137, "0.0137"), (2.025, "2.0250")],
)
def test_a_small_number_is_not_written_as_nothing(value: float, said: str) -> None:
    assert csv_number(value) == said


def test_a_label_that_is_a_formula_is_text_in_every_csv(tpbench_inside: Inside, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(3):
        store.publish(record("bp", seed, label="=cmd()", found=PUBLISHED))
    assert ",'=cmd() ffffffff," in tpbench_inside("leaderboard", "--format", "csv").stdout
    assert ",'=cmd() ffffffff," in tpbench_inside("table", "s6", "--format", "csv").stdout
    assert tpbench_inside("results", "export", "x.csv").returncode == 0
    assert ",'=cmd()," in (tmp_path / "x.csv").read_text()
    assert set(tpbench.load_runs(store.folder)["data"]) == {"=cmd()"}


# Markdown and LaTeX


def test_markdown_holds_no_html_and_no_link() -> None:
    assert markdown("<img onerror=x> </b> <!-- a|b [x](javascript:y)") == (
        r"&lt;img onerror=x> &lt;/b> &lt;!-- a\|b [x]\(javascript:y)"
    )
    # The marks of tables stay.
    assert markdown("2.04 ± 0.08 < (0.11)") == "2.04 ± 0.08 < (0.11)"
    assert markdown(r"R&D &lt; $x$ *a* `b` ~~c~~ _d_ e_f \*") == (
        r"R&D &amp;lt; \$x\$ \*a\* \`b\` \~\~c\~\~ \_d\_ e_f \\\*"
    )
    assert markdown_code("a`b|<c>\n") == r"`a'b\|<c>\n`"


def test_a_name_is_no_command_of_latex() -> None:
    lines = latex_table("a_b", ["a"], ["b"], "note\r\\input{x}\n5 %").splitlines()
    assert r"\caption{a\_b.}" in lines
    assert latex('--tuning "a|b" ---') == r"-{}-tuning ''a\textbar{}b'' -{}-{}-"
    assert lines[-3:-1] == [r"note\textbackslash{}r\textbackslash{}input\{x\}\par", r"5 \%\par"]


# Exports


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_full_disk_leaves_the_earlier_export(tpbench_inside: Inside, tmp_path: Path, form: str) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(30):
        store.publish(record("bp", seed))
    path = tmp_path / f"x.{form}"
    path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        ended = tpbench_inside("results", "export", path.name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert path.read_text() == "earlier"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("values", [(5, 2**70), (5, "text")], ids=["wide", "mixed"])
def test_what_parquet_cannot_hold_is_one_line(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: tuple[object, object]
) -> None:
    RunStore(tmp_path / "results").publish(record())
    frame = pd.DataFrame({"id": ["a", "b"], "found_trials": pd.Series(values, dtype=object)})
    monkeypatch.setattr("tpbench.results.frames.export_frame", lambda records: frame)
    ended = tpbench_inside("results", "export", "x.parquet")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert not list(tmp_path.glob("*.parquet"))
    assert tpbench_inside("results", "export", "x.csv").returncode == 0


def test_an_export_goes_through_a_pipe(tpbench_inside: Inside, tmp_path: Path) -> None:
    RunStore(tmp_path / "results").publish(record())
    ended = tpbench_inside("results", "export", "/dev/null", "--format", "csv")
    assert ended.returncode == 0, ended.stderr
    assert not os.path.isfile("/dev/null")  # noqa: PTH113


# Homes on the command line


def test_a_home_folder_is_meant_wherever_a_path_is(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    store = RunStore(home / "r")
    for seed in range(3):
        store.publish(record("bp", seed, [0.3, 0.2], epochs=2))
    for command in (
        ("leaderboard", "--results=~/r", "--write=~/board.csv"),
        ("results", "export", "~/x.csv", "--results=~/r"),
        ("results", "pack", "~/x.zip", "--results=~/r"),
        ("plot", "curves", "mnist", "--results=~/r", "--output=~/x.png"),
        ("report", "--results=~/r", "--output=~/x.html"),
        ("results", "merge", "~/x.zip", "~/s"),
        ("results", "check", "--results=file://" + str(home / "r")),
    ):
        ended = tpbench_inside(*command)
        assert ended.returncode == 0, ended.stderr
    assert {path.name for path in home.iterdir()} == {"r", "s", "board.csv", "x.csv", "x.zip", "x.png", "x.html"}
    assert len(tpbench.load_runs("~/r")) == 3
    assert not (tmp_path / "~").exists()
    # What is really named so can be named.
    RunStore(tmp_path / "~" / "r").publish(record())
    assert len(tpbench.load_runs("./~/r")) == 1
    ended = tpbench_inside("leaderboard", "--results=~no-such-user/r")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


def test_a_home_folder_is_meant_in_files_variables_and_calls(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    import numpy as np

    x = np.random.default_rng(0).random((60, 4)).astype("float32")
    np.savez(home / "wine.npz", x=x, y=np.arange(60) % 3)
    (home / "wine.yaml").write_text("name: wine\ndata: ~/wine.npz\ntest: 0.2\nnetwork: [4]\nbatch_size: 8\n")
    ended = tpbench_inside("workloads", "~/wine.yaml")
    assert ended.returncode == 0, ended.stderr
    (home / "bp.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    frame = tpbench.run("digits", "bp", "~/bp.yaml", [0], 1, "~/api", data="~/d", device="cpu", progress=False)
    assert len(frame) == 1
    assert (home / "api" / "runs").is_dir()
    monkeypatch.setenv("TPBENCH_DATA", "~/data")
    assert json.dumps(str(home / "data"))[1:-1] in tpbench_inside("data", "list").stdout
    assert not (tmp_path / "~").exists()
