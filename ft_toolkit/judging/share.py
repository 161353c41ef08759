"""Several processes score texts together: each reads its share of the batches, and all get every score.

Which process reads a batch does not change its scores: the batches are those of one process, none is divided,
and each is computed as one process with as many threads computes it. So a verdict is bitwise the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object

from ft_toolkit.errors import FtError
from ft_toolkit.judging.totals import Scored

if TYPE_CHECKING:
    from accelerate import Accelerator

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")
Batch = tuple[int, list[T]]  # width in tokens, rows


def _nobody(tokens: int) -> None:
    """Told of progress."""


@dataclass(frozen=True)
class Share:
    """One process's part in scoring. Every process must ask for the same texts in the same order.

    index      of this process; the first one, 0, keeps the cache and writes
    advance    told how many tokens were scored, a batch at a time; the others are taken to be as far
    """

    index: int = 0
    processes: int = 1
    advance: Callable[[int], object] = _nobody

    @classmethod
    def of(cls, accelerator: Accelerator, advance: Callable[[int], object] = _nobody) -> Share:
        return cls(accelerator.process_index, accelerator.num_processes, advance)

    def read(
        self,
        batches: Iterable[Batch[T]],
        scores: list[Scored],
        score_batch: Callable[[int, list[T]], int],
    ) -> list[Scored]:
        """Score this process's batches, and fill in what the others scored.

        scores       one a document, nothing scored yet; returned with all scores
        score_batch  puts a batch's scores into `scores`; returns how many tokens they are
        raises       in every process, what score_batch raises in any of them
        """
        fault: FtError | None = None
        try:
            for width, rows in dealt(list(batches), self.processes)[self.index]:
                self.advance(self.processes * score_batch(width, rows))
        except FtError as error:
            fault = error
        if self.processes > 1 and scores:
            return _together(scores, fault)
        if fault is not None:
            raise fault
        return scores

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, alone; it must be something that can be pickled."""
        made = make() if self.index == 0 else None
        if self.processes > 1:
            (made,) = broadcast_object_list([made])
        return made  # type: ignore[return-value]  # the first process's

    def led(self, decide: Callable[[Callable[[A], R]], T], compute: Callable[[A], R]) -> T:
        """What the first process decides: it alone has the cache and the run's folder.

        decide   run by the first process; its argument is `compute`, which all processes then run together
        compute  with an argument that can be pickled
        """
        if self.processes == 1:
            return decide(compute)
        if self.index == 0:

            def together(asked: A) -> R:
                self.first(lambda: (True, asked))
                return compute(asked)

            return self.first(lambda: (False, decide(together)))[1]
        while True:
            is_asked, value = self.first(lambda: (False, None))
            if not is_asked:
                return value  # type: ignore[return-value]  # as the first process has it
            compute(value)  # type: ignore[arg-type]  # likewise


ALONE = Share()


def dealt(batches: Sequence[Batch[T]], processes: int) -> list[list[Batch[T]]]:
    """Each process's batches in their order: about as many tokens for each, padding included.

    The largest batch that is left goes to the process that has least.
    """
    if processes == 1:
        return [list(batches)]
    sizes = [width * len(rows) for width, rows in batches]
    loads = [(0, process) for process in range(processes)]
    places: list[list[int]] = [[] for _ in range(processes)]
    for place in sorted(range(len(batches)), key=lambda place: -sizes[place]):
        load, process = heapq.heappop(loads)
        places[process].append(place)
        heapq.heappush(loads, (load + sizes[place], process))
    return [[batches[place] for place in sorted(mine)] for mine in places]


def _together(scores: list[Scored], fault: FtError | None) -> list[Scored]:
    """Every process's scores in one; a token that none of them scored stays NaN."""
    mine = fault or tuple(np.concatenate(column) for column in zip(*scores, strict=True))
    gathered = gather_object([mine])
    for each in gathered:
        if isinstance(each, FtError):
            raise each
    nats, is_top1 = gathered[0]
    for other_nats, other_top1 in gathered[1:]:
        nats = np.where(np.isnan(nats), other_nats, nats)
        is_top1 = is_top1 | other_top1
    cuts = np.cumsum([len(each.nats) for each in scores])[:-1]
    return [Scored(*each) for each in zip(np.split(nats, cuts), np.split(is_top1, cuts), strict=True)]
