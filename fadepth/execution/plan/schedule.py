"""From hours of work to hours on the clock: jobs on a number of slots, and what fits a budget."""

import heapq
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fadepth.errors import FadepthError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Task:
    """One job that takes a slot.

    Attributes:
        name: unique.
        seconds: that it takes.
        needs: names of tasks that have to end before; those that are not given have ended.
        priority: of two that could start, the higher one does, then the one that is given first.
    """

    name: str
    seconds: float
    needs: tuple[str, ...] = ()
    priority: int = 0


def wall_seconds(tasks: Sequence[Task], slots: int) -> float:
    """When the last task ends, if no slot stays idle while a task could start."""
    number = {task.name: index for index, task in enumerate(tasks)}
    waits = [{number[name] for name in task.needs if name in number} for task in tasks]
    followers: list[list[int]] = [[] for _ in tasks]
    for index, needed in enumerate(waits):
        for other in needed:
            followers[other].append(index)
    ready = [(-task.priority, i) for i, task in enumerate(tasks) if not waits[i]]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            _, index = heapq.heappop(ready)
            heapq.heappush(running, (now + tasks[index].seconds, index))
        now = running[0][0]
        # All that end now, before anything starts: one of them may free what comes first.
        while running and running[0][0] == now:
            _, ended = heapq.heappop(running)
            for index in followers[ended]:
                waits[index].discard(ended)
                if not waits[index]:
                    heapq.heappush(ready, (-tasks[index].priority, index))
    return now


def fitting(
    tasks: Sequence[Task], ranked: Sequence[str], slots: int, budget: float
) -> tuple[list[str], float]:
    """Which tasks fit into a wall time, taken in order of their use; each brings what it needs.

    Args:
        tasks: all of them.
        ranked: names of those that are wanted, the most useful first.
        slots: tasks that run at once.
        budget: seconds.

    Returns:
        Names that fit, with all that they need, in the order in which they were taken; and the
        wall time of all of them together.
    """
    by_name = {task.name: task for task in tasks}
    place = {task.name: index for index, task in enumerate(tasks)}
    taken: dict[str, None] = {}
    work = wall = 0.0
    for name in ranked:
        new = [other for other in _with_needs(name, by_name) if other not in taken]
        more = sum(by_name[other].seconds for other in new)
        # No schedule is shorter than its work shared evenly.
        if work + more > slots * budget:
            continue
        together = [by_name[other] for other in sorted([*taken, *new], key=place.__getitem__)]
        length = wall_seconds(together, slots)
        if length <= budget:
            taken |= dict.fromkeys(new)
            work, wall = work + more, length
    return list(taken), wall


def _with_needs(name: str, by_name: Mapping[str, Task]) -> list[str]:
    """A task after all that it needs."""
    found: dict[str, None] = {}
    for other in by_name[name].needs:
        if other in by_name:
            found |= dict.fromkeys(_with_needs(other, by_name))
    return [*found, name]


def parse_duration(text: str) -> float:
    """Seconds of `6h`, `90m`, `2d`, `1h30m`.

    Raises:
        FadepthError: it is something else.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    units = [unit for _, unit in parts]
    in_order = units == sorted(set(units), key=list(_UNITS).index)
    if "".join(number + unit for number, unit in parts) != text or not in_order or not seconds:
        raise FadepthError(f"--budget is '{text}': write a time such as 6h, 90m, 2d or 1h30m")
    return seconds


def spoken_duration(seconds: float) -> str:
    """For people, by its two largest units: `2 d 3 h`, `1 h 05 min`, `40 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 or not seconds else "1 s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
