"""Files of the user's and the product's: homes, modes, what is left of a killed writer, pipes, full disks."""

from __future__ import annotations

import errno
import os
import pwd
import resource
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine import files as kept
from tpbench.engine.files import atomic_write, check_target, remove_leftovers, user_cache, user_path
from tpbench.results import RunStore

ACCOUNT = pwd.getpwuid(os.getuid())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of this process for the length of a test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(autouse=True)
def looked_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_looked_at", {})


# Homes


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~") == tmp_path
    assert user_path("~/a/b") == user_path(Path("~/a/b")) == tmp_path / "a" / "b"
    # As shells have it: more slashes do not lead out of the home folder.
    assert user_path("~//a") == tmp_path / "a"
    assert user_path(f"~{ACCOUNT.pw_name}/a") == Path(ACCOUNT.pw_dir, "a")
    assert [str(user_path(text)) for text in ("a~", "a/~", "/~/b", "results")] == ["a~", "a/~", "/~/b", "results"]
    # An empty HOME is no root of the file system.
    monkeypatch.setenv("HOME", "")
    assert user_path("~/a") == Path(ACCOUNT.pw_dir, "a")


def test_what_is_really_named_so_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert user_path("./~/x") == tmp_path / "~" / "x"
    # It may be written down and read again.
    assert user_path(str(user_path("./~/x"))) == tmp_path / "~" / "x"
    with pytest.raises(UsageError) as told:
        user_path("~no-such-user/x")
    assert "./~no-such-user/x" in str(told.value)
    (tmp_path / "~no-such-user").mkdir()
    assert user_path("~no-such-user/x") == tmp_path / "~no-such-user" / "x"


def test_the_cache_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TPBENCH_CACHE", "~/c")
    assert user_cache() == tmp_path / "c"
    monkeypatch.delenv("TPBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert user_cache() == tmp_path / "x" / "tpbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == tmp_path / ".cache" / "tpbench"


# Modes


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], indirect=True, ids=oct)
def test_a_file_follows_the_umask(tmp_path: Path, umask: int) -> None:
    (tmp_path / "there").write_text("old")
    for name in ("new", "there", "once"):
        with atomic_write(tmp_path / name, replace=name != "once") as file:
            file.write(b"x")
        assert mode(tmp_path / name) == 0o666 & ~umask
    with atomic_write(tmp_path / "sub" / "deep" / "x") as file:
        file.write(b"x")
    assert mode(tmp_path / "sub" / "deep") == 0o777 & ~umask


# A sweep's log, lock and definition by somebody of a group, who may not read where Python lies.
_COLLEAGUE = """
import os, sys
from pathlib import Path
from tpbench.engine.files import atomic_write
from tpbench.search.locking import locked
from tpbench.training.console import redirect_output
folder, user = Path(sys.argv[1]), int(sys.argv[2])
os.umask(0o002), os.setgroups([]), os.setgid(5000), os.setuid(user)
with locked(folder, "the sweep"), redirect_output(folder / "ray.log"):
    print("noise of", os.getuid())
with atomic_write(folder / "sweep.json") as file:
    file.write(b"{}")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other users")
def test_two_people_of_a_group_share_a_folder() -> None:
    # Not pytest's own folder, which is private.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, -1, 5000)
        folder.chmod(0o2775)

        def work(user: int) -> None:
            command = [sys.executable, "-c", _COLLEAGUE, name, str(user)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stderr

        work(12345)
        assert {path.name: mode(path) for path in folder.iterdir()} == {
            "lock": 0o664,
            "ray.log": 0o664,
            "sweep.json": 0o664,
        }
        work(12346)
        # As an older version made them.
        (folder / "ray.log").chmod(0o644)
        (folder / "lock").chmod(0o644)
        work(12347)
        said = (folder / "ray.log").read_text().split("\n")
        assert [line for line in said if line] == [f"noise of {user}" for user in (12345, 12346, 12347)]
        assert mode(folder / "ray.log") == 0o664


# What killed writers leave


def part(path: Path, machine: str, process: int, age: float = 0.0) -> Path:
    made = path.with_name(f".{path.name}-{machine}-{process}-0123abcd.part")
    made.write_text("half")
    os.utime(made, (time.time() - age,) * 2)
    return made


def test_the_leftovers_of_dead_writers_are_removed_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = kept._machine()
    gone = [
        part(tmp_path / "runs.zip", here, dead.pid),
        part(tmp_path / "far.json", "0" * 8, 1, age=100_000),
        tmp_path / f".{'0a' * 12}.json-abcd1234.part",
    ]
    gone[-1].write_text("of an older version")
    os.utime(gone[-1], (time.time() - 100_000,) * 2)
    stay = [
        part(tmp_path / "mine.json", here, os.getpid(), age=100_000),
        part(tmp_path / "far.json", "1" * 8, 1, age=60),
        tmp_path / ".film-download.part",
        tmp_path / "visible-0123abcd.part",
    ]
    for other in stay[2:]:
        other.write_text("of another program")
        os.utime(other, (0, 0))
    with atomic_write(tmp_path / "new.json") as file:
        file.write(b"{}")
    assert not [path.name for path in gone if path.exists()]
    assert all(path.exists() for path in stay)
    assert len(list(tmp_path.iterdir())) == len(stay) + 1


def test_a_writer_that_is_killed_leaves_what_the_next_removes(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tpbench.engine.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n    file.write(b'x'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.csv")], check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_work_in_a_store_removes_the_leftovers_in_all_of_it(tmp_path: Path) -> None:
    places = [tmp_path, tmp_path / "runs", tmp_path / "networks", tmp_path / "sweeps" / "a"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        part(place / "x.json", "0" * 8, 1, age=100_000)
    RunStore(tmp_path).require_writable()
    assert not [path for path in tmp_path.rglob(".*") if path.suffix == ".part"]


def test_names_as_long_as_names_may_be_are_written(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".csv", "é" * 125 + ".csv"):
        with atomic_write(tmp_path / name) as file:
            file.write(b"x")
    assert len(list(tmp_path.iterdir())) == 2


# Full disks, pipes and devices


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TpbenchError, match=os.strerror(errno.EFBIG)), atomic_write(path) as file:
            file.write(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
    assert path.read_text() == "earlier"


def test_a_pipe_gets_the_bytes_and_one_that_nobody_reads_is_no_wait(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert check_target(pipe) == pipe
    with pytest.raises(TpbenchError), atomic_write(pipe) as file:
        file.write(b"x")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    for _ in range(200):
        try:
            with atomic_write(pipe) as file:
                file.write(b"x" * 200_000)
            break
        except TpbenchError:  # the reader has not begun
            time.sleep(0.05)
    reader.join(30)
    assert found == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays_one() -> None:
    with atomic_write(Path("/dev/null")) as file:
        file.write(b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_through_a_link_its_file_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "latest.csv"
    target.write_text("old")
    link.symlink_to(target)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_standard_output_gets_the_bytes_whatever_it_is(tmp_path: Path) -> None:
    """Redirected to a file, that file: the link /dev/stdout must not be replaced."""
    code = "from pathlib import Path; from tpbench.engine.files import atomic_write\n"
    code += "print('first', flush=True)\nwith atomic_write(Path('/dev/stdout')) as file: file.write(b'second')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "first\nsecond"
    assert Path("/dev/stdout").is_symlink()


def test_a_fault_of_the_writer_is_no_fault_of_the_disk(tmp_path: Path) -> None:

    def write() -> None:
        with atomic_write(tmp_path / "x") as file:
            file.write(b"half")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        write()
    assert list(tmp_path.iterdir()) == []
