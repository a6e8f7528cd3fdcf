"""The one exception that users see, and how they are told that memory ran out."""

import re


class FadepthError(Exception):
    """Bad input, told in one sentence: which file or key, what was expected, what to do.

    The command line prints the sentence without a traceback and exits with code 2.
    """


#: What torch, numpy, CUDA and the system call it; the last one is oneDNN, which computes on CPUs.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|bad_alloc|ALLOC_FAILED"
    r"|MemoryError|could not create a primitive$",
    re.IGNORECASE,
)
# "exited unexpectedly" where torch missed the signal: errors of a process are passed on as such.
_KILLED = re.compile(r"DataLoader worker .* (killed by signal: Killed|exited unexpectedly)")
_SHARED = re.compile(r"out of shared memory|unable to allocate shared memory|unable to mmap")
_WANTED = re.compile(r"allocate (\d[\d.]* \w+)")


def out_of_memory(error: BaseException) -> str | None:
    """One sentence if an error says that memory ran out; None for any other.

    Torch has no one type for it: on a GPU it raises `torch.OutOfMemoryError`, on the CPU a plain
    RuntimeError of its allocator, or of a data loading process; numpy and Python a MemoryError.
    """
    # Where a data loading process was killed, only the cause says by which signal.
    text = f"{error} {error.__cause__ or ''}".strip()
    smaller = (
        "lower 'training.batch_size', or 'data.height' and 'data.width', which makes other runs"
    )
    remedy = f"run fewer jobs at once ('--resources train_slot=1'), or {smaller}"
    if _SHARED.search(text):
        what = "shared memory (/dev/shm)"
        remedy = "make it larger ('docker run --shm-size=8g'), or set 'training.workers' to 0"
    elif _KILLED.search(text):
        what = "memory (the system killed a data loading process)"
        remedy = f"set 'training.workers' to less, {remedy}"
    elif not (isinstance(error, MemoryError) or _NO_MEMORY.search(text)):
        return None
    elif re.search(r"CUDA|CUBLAS|CUDNN", text):
        what, remedy = "memory of the GPU", smaller
    else:
        what = "memory"
    wanted = _WANTED.search(text)
    size = f" when {wanted[1]} more were asked for" if wanted else ""
    return (
        f"{what} ran out{size}: {remedy}; what was finished before is kept, and a training goes on "
        "from its last checkpoint"
    )


def one_line(error: BaseException, most: int = 160) -> str:
    """Kind and first line of an error, cut where it is long."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"
