"""The command line: runs one command and turns its end into an exit code and at most one line.

Exit codes: 0 done; 2 wrong usage; 130 interrupted; 1 anything else, with one line on stderr that names the
file or field and the mend (``--debug`` for the traceback).
"""

# Only what Python itself has loaded already: an interrupt before ``main`` runs cannot be caught here.
import os
import sys

TYPE_CHECKING = False  # for a type checker it is true, whoever assigns it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from simmap.commands.shared.interrupt import Interrupts

INTERRUPTED = 130  # as a shell reports a command that SIGINT ended


def run() -> "NoReturn":
    """Run the command of this process, and end the process.

    Python's own end is left out: there an interrupt kills the process without a line, or meets native
    threads whose libraries are being taken down.
    """
    code = INTERRUPTED
    try:
        code = main(sys.argv[1:])
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (KeyboardInterrupt, OSError, ValueError):
        pass  # the command was done, or nobody listens
    os._exit(code)


def main(argv: "Sequence[str]") -> int:
    """Run one command and give its exit code."""
    try:
        from simmap.commands.shared.interrupt import Interrupts

        with Interrupts() as interrupts:
            try:
                return _run(argv, interrupts)
            except BaseException:
                # Native code turns an interrupt into errors of its own.
                if not interrupts.seen:
                    raise
    except KeyboardInterrupt:
        pass
    return _fail("interrupted", INTERRUPTED)


def _run(argv: "Sequence[str]", interrupts: "Interrupts") -> int:
    import click

    from simmap.commands.shared.group import simmap
    from simmap.commands.shared.streams import checked_streams
    from simmap.engine.errors import SimmapError

    if "_SIMMAP_COMPLETE" in os.environ:
        simmap.main(prog_name="simmap")
    # OpenCV's own warnings would stand beside our one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        with checked_streams():
            try:
                with simmap.make_context("simmap", list(argv)) as context:
                    simmap.invoke(context)
            except click.exceptions.Exit:
                pass  # --help and --version
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "simmap"
        return _fail(f"{_lower(error.format_message())}; see {command} --help", 2, name=command)
    except BrokenPipeError:
        # The reader of our output has gone (`simmap ... | head`); nothing is wrong here.
        return 1
    except BaseException as error:
        if interrupts.seen or isinstance(error, KeyboardInterrupt | click.Abort):
            line, code = "interrupted", INTERRUPTED
            interrupts.reported = True
        elif isinstance(error, SimmapError):
            line, code = str(error), 1
        elif isinstance(error, MemoryError):
            line, code = "out of memory; use a smaller image, batch or model", 1
        elif isinstance(error, OSError) and error.filename is not None:
            line, code = f"{os.fsdecode(error.filename)}: {error.strerror}", 1
        else:
            line = f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
            code = 1
        if "--debug" in argv:
            import traceback

            traceback.print_exception(error)
            return code
        return _fail(line, code)
    return 0


def _lower(message: str) -> str:
    """A sentence of click's as the middle of a line."""
    message = message.rstrip(".")
    return message[:1].lower() + message[1:] if message[1:2].islower() else message


def _fail(line: str, code: int, *, name: str = "simmap") -> int:
    # Not printable(): this module imports nothing before it is needed, not even on an interrupt.
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(f"{name}: {line}".split()))
    try:
        if sys.stderr is not None:
            print(shown, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens; the exit code says it
    return code


if __name__ == "__main__":
    run()
