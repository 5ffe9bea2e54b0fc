"""Ctrl-C ends a command: at once where Python runs, within ``GRACE`` seconds where it does not."""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

GRACE = 1.0  # seconds in which an interrupted command may tidy up
STEP = 0.02  # seconds between two looks at what became of an interrupt


class Interrupts:
    """While it is open, SIGINT raises KeyboardInterrupt, and ends the process if that does not.

    A library that waits in C for a thread, or that swallows the exception, would go on for as long as it
    likes. The signal's byte reaches a thread of our own even then.

    Attributes:
        seen: an interrupt has come, whatever was made of its exception.
        reported: its line has been printed.
    """

    def __init__(self) -> None:
        self.seen = self.reported = False
        self._ended = threading.Event()
        # Raised where Python drops exceptions, as in the callback of a weak reference.
        self._swallowed = False
        # A shell that starts a job in the background lets it ignore SIGINT.
        main = threading.current_thread() is threading.main_thread()
        self._active = main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN

    def __enter__(self) -> "Interrupts":
        """Take SIGINT over."""
        if self._active:
            self._read, self._write = os.pipe()
            if hasattr(os, "set_blocking"):
                os.set_blocking(self._write, False)
            self._old_descriptor = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, name="simmap-interrupt", daemon=True).start()
            self._old_hooks = sys.excepthook, sys.unraisablehook
            sys.excepthook, sys.unraisablehook = self._print, self._note
            self._old_handler = signal.signal(signal.SIGINT, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        """Give SIGINT back."""
        if not self._active:
            return
        self._ended.set()
        signal.signal(signal.SIGINT, self._old_handler)
        sys.excepthook, sys.unraisablehook = self._old_hooks
        signal.set_wakeup_fd(self._old_descriptor)
        os.close(self._write)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt

    def _print(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # NumPy's C code prints the import error that it makes of an interrupt.
        if not self.seen:
            self._old_hooks[0](kind, error, traceback)

    def _note(self, dropped: "UnraisableHookArgs") -> None:
        if dropped.exc_type is KeyboardInterrupt:
            self._swallowed = True
        else:
            self._old_hooks[1](dropped)

    def _watch(self) -> None:
        while byte := os.read(self._read, 1):
            deadline = time.monotonic() + GRACE
            while byte[0] == signal.SIGINT and not self._ended.wait(STEP):
                if self._swallowed:
                    self._swallowed = False
                    os.kill(os.getpid(), signal.SIGINT)
                if time.monotonic() > deadline:
                    if not self.reported:
                        os.write(sys.stderr.fileno(), b"simmap: interrupted\n")
                    os._exit(130)
        os.close(self._read)
