"""Says which command continues where Ray ends the driver's process without a word.

Ray ends a process that has lost its cluster's head, or its own node, from within: no Python code runs any more. So a
small process of its own waits for the end of the driver, and speaks if the driver had not said that all is well.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tpbench.results.commands import continuing
from tpbench.training.console import CONTINUES

# Lines of standard input: the head's address, once it is known, and "done". The end of the input without it is the end
# of the driver. Signals are the driver's to handle.
_WATCHER = """
import signal, socket, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
head = ""
for line in sys.stdin:
    if line.strip() == "done":
        sys.exit()
    head = line.strip() or head
lost = False
if head:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        lost = True
what = f"the head of the cluster at {head} was lost" if lost else "its process was killed, or Ray ended it"
print(f"error: the sweep has ended: {what}; {sys.argv[1]}: {sys.argv[2]}", file=sys.stderr, flush=True)
"""


@contextmanager
def last_words(command: str) -> Iterator[Callable[[str], None]]:
    """Within, the command that continues is said even if this process is ended without being able to say it.

    Args:
        command: as it was typed.

    Yields:
        A function that takes the address of the cluster's head, so that its loss can be told from other ends.
    """
    arguments = [sys.executable, "-I", "-S", "-c", _WATCHER, CONTINUES, continuing(command)]
    watcher = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )

    def say(line: str) -> None:
        if watcher.stdin:
            with suppress(OSError, ValueError):  # somebody has ended it
                print(line, file=watcher.stdin, flush=True)

    try:
        yield say
    finally:
        say("done")
        if watcher.stdin:
            with suppress(OSError):
                watcher.stdin.close()
        watcher.wait()
