# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same work on several layers at once, in threads that end when one of them fails or the program is interrupted."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

_THREADS = 3  # as many layers as are read at once where they are unpacked
_END_SECONDS = 5.0  # that an interrupted program waits for them

_T = TypeVar("_T")


class Stopped(Exception):
    """Another layer's work has failed; ends this one's."""


def together(
    work: Callable[[int, Callable[[], None]], _T], count: int, give_up: Callable[[BaseException], None]
) -> list[_T]:
    """Return what `work` gives for each number below `count`, which are begun in their order.

    It must call its second argument before each piece of what it does, which raises Stopped when nothing more is
    wanted: the first failure is raised here, after `give_up` was called with it to end the others' waiting.
    """
    numbers = deque(range(count))
    answers: SimpleQueue[tuple[int, _T | BaseException]] = SimpleQueue()
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def run() -> None:
        while numbers and not stop.is_set():
            try:
                number = numbers.popleft()
            except IndexError:
                return
            try:
                answers.put((number, work(number, check)))
            except BaseException as error:
                answers.put((number, error))

    # Daemons: one that waits for a server or for another process's lock must not keep the program from ending.
    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(_THREADS, count))]
    results: dict[int, _T] = {}
    try:
        for thread in threads:
            thread.start()
        while len(results) < count:
            number, answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            results[number] = answer
    except BaseException as failure:
        stop.set()
        give_up(failure)
        end = time.monotonic() + _END_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(end - time.monotonic(), 0.0))
        raise
    for thread in threads:
        thread.join()
    return [results[number] for number in range(count)]
