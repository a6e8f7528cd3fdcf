"""How `fadepth` ends: by itself, by bad input, by Ctrl-C, by a reader that has gone.

Exit codes: 0 done; 1 something was found (`lint`, `data check`), or a mistake of fadepth's own,
with its traceback; 2 bad input, wrong options, full disk or memory, told in one sentence;
130 Ctrl-C; 141 nobody reads what is printed (`| head`); 143 SIGTERM.
"""

import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from fadepth.cli.common import log
from fadepth.cli.terminal import nobody_reads, say, write_to_nobody
from fadepth.errors import FadepthError, out_of_memory

#: A disk that is full or may not be written to.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run_to_the_end(app: Callable[[], object]) -> None:
    """Call the command line; what it raises becomes one sentence and an exit code."""
    try:
        try:
            app()
        finally:
            # What is still in the buffer: whether it can be written is to be told here.
            if sys.stdout:
                sys.stdout.flush()
        return
    except FadepthError as error:
        sentence = str(error)
    except (OSError, MemoryError, RuntimeError) as error:
        _end_without_a_reader(error)
        told = _refusal(error) or out_of_memory(error)
        if not told:
            _tell_of_own_mistake()
            raise
        sentence = told
    except SystemExit as ended:
        _end_without_a_reader(ended)
        raise
    except Exception:
        _tell_of_own_mistake()
        raise
    # Outside of the handlers: there the traceback would still hold all that fills the memory.
    _fail(sentence)


def _fail(sentence: str) -> None:
    if logging.getLogger().handlers:
        log.error("%s", sentence, extra={"file_only": True})
    say(sentence, "red")
    raise SystemExit(2) from None


def _refusal(error: BaseException) -> str | None:
    """One sentence for a disk that is full or may not be written to."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    where = error.filename2 or error.filename or "a file"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{where} may not be read or written ({error.strerror}): ask its owner, or choose "
            "another folder; what was finished before is kept"
        )
    return (
        f"{where} cannot be written ({error.strerror}): make room or choose a folder that you "
        "may write to, then call again; what was finished before is kept"
    )


def _end_without_a_reader(error: BaseException) -> None:
    """End as a program does that SIGPIPE ends, if that is what happened; else do nothing.

    Raises:
        BrokenPipeError: another pipe than stdout has broken, which typer would hide.
    """
    broken: BaseException | None = error
    while broken and not isinstance(broken, BrokenPipeError):
        broken = broken.__cause__ or broken.__context__
    if broken is None:
        return
    gone = [number for number in (1, 2) if nobody_reads(number)]
    for number in gone:
        write_to_nobody(number)
    if gone:
        raise SystemExit(128 + signal.SIGPIPE) from None
    if broken is not error:
        _tell_of_own_mistake()
        raise broken


def _tell_of_own_mistake() -> None:
    """Below the traceback that Python is about to print: whose mistake it is."""
    if logging.getLogger().handlers:
        log.exception("a mistake in fadepth", extra={"file_only": True})
    sys.excepthook = _print_own_mistake


def _print_own_mistake(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.__excepthook__(kind, error, trace)
    say("this is a mistake in fadepth, not in what you typed; please report the lines above", "red")


@contextmanager
def own_code_for_interrupts() -> Iterator[None]:
    """Exit code 130 where a training that saved its state ends with 143, but by Ctrl-C.

    Its own handlers take both signals alike. Python writes each signal's number to a descriptor,
    whoever handles it.
    """
    heard, told = socket.socketpair()
    heard.setblocking(False)
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except SystemExit as ended:
        if ended.code == 128 + signal.SIGTERM and signal.SIGINT in _received(heard):
            raise SystemExit(128 + signal.SIGINT) from None
        raise
    finally:
        signal.set_wakeup_fd(before)
        heard.close()
        told.close()


def _received(heard: socket.socket) -> bytes:
    try:
        return heard.recv(64)
    except BlockingIOError:
        return b""
