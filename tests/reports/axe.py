"""axe-core from npm, which says what is wrong with a page for people who use a keyboard or a screen reader. Not a test.

tests/web/package-lock.json says which version. It is installed once, into the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.reports.browser import Browser

WEB = Path(__file__).parents[1] / "web"
# What npm says where it is not the package's fault.
_UNREACHABLE = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "ERR_SOCKET_TIMEOUT",
)


def packages(jsdom: bool) -> Path:
    """The folder whose ``node_modules`` holds axe-core, and jsdom if wanted; skips the test where it cannot be had."""
    if not shutil.which("npm"):
        pytest.skip("no npm here, which axe-core comes from (Debian: apt-get install npm)")
    lock = hashlib.sha256((WEB / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tpbench-tests"
    folder = cache / f"web-{lock}{'-jsdom' * jsdom}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            made = Path(temporary) / "web"
            made.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(WEB / name, made)
            _install(made, [] if jsdom else ["--omit=optional"])
            if not folder.is_dir():  # another process may have been faster
                made.rename(folder)
    return folder


def _install(folder: Path, options: list[str]) -> None:
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=30000"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and any(code in done.stderr for code in _UNREACHABLE):
        pytest.skip("npm's registry cannot be reached, so there is no axe-core")
    assert done.returncode == 0, done.stderr


def violations_in(browser: Browser, *rules: str) -> list[str]:
    """What axe-core finds in the page that a browser shows, by all of its rules or these: rule and element."""
    browser.ask((packages(jsdom=False) / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    options = json.dumps({"runOnly": rules} if rules else {})
    return _spelled(browser.ask(f"axe.run({options}).then(found => found.violations)"))


def violations_without_browser(page: Path) -> list[str]:
    """What axe-core finds in a page under jsdom."""
    if not shutil.which("node"):
        pytest.skip("neither Chromium nor node is here")
    command = ["node", str(WEB / "axe.cjs"), str(packages(jsdom=True)), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return _spelled(json.loads(done.stdout))


def _spelled(violations: list[dict[str, Any]]) -> list[str]:
    return [f"{found['id']}: {node['html'][:200]}" for found in violations for node in found["nodes"]]
