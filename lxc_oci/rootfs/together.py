# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same work on several layers at once, in threads that end when one of them fails or the program is interrupted."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from lxc_oci.kernel import threads

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
    waiting = deque(range(count))
    begun: list[int] = []
    answers: SimpleQueue[tuple[int, _T | BaseException]] = SimpleQueue()
    stop = threading.Event()
    lock = threading.Lock()  # after it was held to stop, nothing is begun

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def run() -> None:
        while True:
            with lock:
                if stop.is_set() or not waiting:
                    return
                number = waiting.popleft()
                begun.append(number)
            try:
                answers.put((number, work(number, check)))
            except BaseException as error:
                answers.put((number, error))

    results: dict[int, _T] = {}
    answered = 0
    try:
        for number in range(min(_THREADS, count)):
            try:
                threads.start(run)
            except MemoryError:
                if number == 0:
                    raise
                break  # fewer will do
        while len(results) < count:
            number, answer = answers.get()
            answered += 1
            if isinstance(answer, BaseException):
                raise answer
            results[number] = answer
    except BaseException as failure:
        with lock:
            stop.set()
        give_up(failure)
        end = time.monotonic() + _END_SECONDS
        with suppress(Empty):
            for _ in range(len(begun) - answered):
                answers.get(timeout=max(end - time.monotonic(), 0.0))
        raise
    return [results[number] for number in range(count)]
