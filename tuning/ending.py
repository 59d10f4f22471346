"""How work ends early, and how a process ends that is told to by a signal.

An exception that a signal's handler raises comes up wherever the main thread happens to be. Within
a callback of TVM's, such as its cost model, C++ cannot unwind it: the process dies of SIGSEGV or
SIGABRT, or the exception is lost and a search goes on. So no handler here raises anything. Signals
are heard by a thread of their own, even while the main thread is in C++. It makes a :class:`Wish`,
which work looks at where it can end; and where none does so in time, it ends the process, as a
kill would, once all child processes and scratch folders are gone. Whatever is kept is written so
that a kill at any moment loses nothing of it.

This module imports little: the sooner signals are heard, the better.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .killing import kill_all, processes_below

#: Those that ask a process to end: Ctrl-C, a service manager or a scheduler, a closed terminal.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
# Work that keeps something at its end has so long; all is over within five seconds.
_PATIENCE = 3.5
# For the main thread to stand still, unless it is in C++ and stands still when it returns.
_STANDSTILL = 0.2
# Events of Python's that come before a process is started.
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn"})


class Wish:
    """That work ends early, keeping what it has; made by any thread, and never withdrawn."""

    def __init__(self) -> None:
        self._made = threading.Event()
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], object]] = []

    @property
    def is_made(self) -> bool:
        """Whether work is to end."""
        return self._made.is_set()

    def make(self) -> None:
        """Wish so."""
        with self._lock:
            self._made.set()
            for each in list(self._listeners):
                each()

    def wait(self, seconds: float) -> bool:
        """Wait for it; whether it was made."""
        return self._made.wait(seconds)

    @contextlib.contextmanager
    def told(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call ``listener`` when the wish is made, by whoever makes it; at once if it has been."""
        with self._lock:
            self._listeners.append(listener)
            if self.is_made:
                listener()
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


class Signals:
    """A context manager that hears signals, in a thread of its own and not in the main one.

    Outside the main thread, where Python takes no handlers, it hears none.

    Parameters
    ----------
    numbers : Collection[int]
        Which; those that this process was started to ignore stay ignored.
    heard : Callable[[int], None]
        Given the number of each that comes.
    in_main_thread : Callable[[], None]
        Called there too, as soon as it runs Python code; must not raise.
    """

    def __init__(
        self,
        numbers: Collection[int],
        heard: Callable[[int], None],
        in_main_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._numbers = numbers
        self._heard = heard
        self._in_main_thread = in_main_thread
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._near.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        for number in self._numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, lambda *_: self._in_main_thread())
        return self

    def __exit__(self, *exc: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._near.close()  # the thread reads to the end
        self._thread.join()
        self._far.close()

    def _listen(self) -> None:
        while come := self._far.recv(64):
            for number in come:
                if number in self._before:
                    self._heard(number)


class Ending:
    """How this process ends when a signal tells it to; a context manager around all that it does.

    The first signal makes a wish and, if nobody is :meth:`patient`, ends the process; else that
    comes three and a half seconds later, or when the context is left before. A second signal ends
    it at once. The exit code is 128 and the signal's number, as shells have it.

    Attributes
    ----------
    advice : str
        How to go on, the end of the line that is printed.
    kept : Callable[[], str]
        What was kept and not yet said, before that in the line: asked as late as then, for work may
        end between what it keeps and what it says.
    """

    def __init__(self) -> None:
        self.advice = "run the same command again"
        self.kept: Callable[[], str] = str
        self._wish = Wish()
        self._last_acts: list[Callable[[], object]] = []
        self._number = 0
        self._patient = False
        self._leaver: threading.Thread | None = None
        self._lock = threading.Lock()
        self._main_stands = threading.Event()
        self._signals = Signals(SIGNALS, self._hear, self._in_main_thread)

    def at_last(self, act: Callable[[], object]) -> None:
        """Have something done when a signal ends this process."""
        self._last_acts.append(act)

    @contextlib.contextmanager
    def patient(self) -> Iterator[Wish]:
        """Let work that looks at the wish end by itself, within a few seconds."""
        with self._lock:
            self._patient = True
        try:
            yield self._wish
        finally:
            with self._lock:
                self._patient = False

    def __enter__(self) -> Ending:
        self._signals.__enter__()
        atexit.register(_ignore_signals)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._number:
            self._leave()
        self._signals.__exit__()

    def _hear(self, number: int) -> None:
        """React to a signal, in the thread that hears them."""
        with self._lock:
            first, patient = not self._number, self._patient
            self._number = self._number or number
        if first:
            self._wish.make()
        if first and patient:
            timer = threading.Timer(_PATIENCE, self._leave)
            timer.daemon = True
            with contextlib.suppress(RuntimeError):  # no room for another thread
                timer.start()
                return
        self._leave()

    def _in_main_thread(self) -> None:
        """Stand still where the process is about to end, lest work goes on with half of itself."""
        if self._leaver is threading.main_thread():
            return
        if self._leaver is not None or not self._patient:
            self._main_stands.set()
            _stand_still()

    def _leave(self) -> None:
        """End the process; in any thread."""
        me = threading.current_thread()
        with self._lock:
            self._leaver = self._leaver or me
        if self._leaver is not me:
            _stand_still()
        try:
            sys.addaudithook(self._start_nothing)
            for act in (self._halt_main, _kill_children, *self._last_acts, self._say):
                with contextlib.suppress(Exception):  # none keeps the others from being done
                    act()
        finally:
            os._exit(128 + self._number)

    def _halt_main(self) -> None:
        """Have the main thread stand still, if this is another one.

        It sees workers die, and would take that for what came of their work.
        """
        main = threading.main_thread()
        if self._leaver is not main and main.ident is not None:
            signal.pthread_kill(main.ident, self._number)
            self._main_stands.wait(_STANDSTILL)

    def _start_nothing(self, event: str, _: tuple[Any, ...]) -> None:
        """Have threads stand still that would start a process in the place of one that was killed.

        Python calls this before it does.
        """
        if event in _STARTS and threading.current_thread() is not self._leaver:
            _stand_still()

    def _say(self) -> None:
        kept = ""
        with contextlib.suppress(Exception):  # what there is may be half of something
            kept = self.kept()
        _print_at_once("; ".join(filter(None, ["prefilltune: interrupted", kept, self.advice])))


def _ignore_signals() -> None:
    """All is done, and the process ends as soon without them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stand_still() -> None:
    threading.Event().wait()


def _kill_children() -> None:
    """Kill all processes below this one; parents first, lest one sees its own children die."""
    for _ in range(5):  # one may have been about to start
        if not (started := processes_below(os.getpid())):
            return
        kill_all(started)


def _print_at_once(line: str) -> None:
    """Print to stderr, unless nobody is reading what was printed before."""
    stream = sys.__stderr__
    if stream is not None and select.select([], [stream], [], 0)[1]:
        shown = "\x1b[?25h\r\x1b[J" if stream.isatty() else ""  # the cursor, hidden by a display
        os.write(stream.fileno(), f"{shown}{line}\n".encode())
