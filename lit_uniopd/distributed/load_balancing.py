"""Dealing pieces of work out to ranks so that the busiest has little more than the others."""

from collections.abc import Sequence

UNEVEN = 1.05
"""Nothing is moved while the busiest rank has at most this share of the mean: all others wait for it, but moving costs
something too."""

EVEN = 1.01
"""Moving ends here."""

Piece = tuple[int, int]
"""Rank that has it, and its number there."""


def load_imbalance(loads: Sequence[int]) -> float:
    """Load of the busiest rank over the mean."""
    return max(loads) * len(loads) / max(1, sum(loads))


def rebalance(costs: Sequence[Sequence[int]]) -> list[list[Piece]]:
    """Move pieces from busy ranks to idle ones, or exchange two, each time what lowers the peak of the busiest most.

    Few pieces move, unlike when all are dealt out anew; a rank that has some keeps at least one.

    Args:
        costs: of each rank, the costs of its pieces.

    Returns:
        Of each rank, the pieces that it is to do; what it had already first.
    """
    own = [[(rank, i) for i in range(len(mine))] for rank, mine in enumerate(costs)]
    loads = [sum(mine) for mine in costs]
    if load_imbalance(loads) <= UNEVEN:
        return own
    while load_imbalance(loads) > EVEN and (step := _best_step(costs, own, loads)) is not None:
        busy, idle, given, taken = step
        for piece, source, target in ((given, busy, idle), (taken, idle, busy)):
            if piece is not None:
                own[source].remove(piece)
                own[target].append(piece)
                loads[source] -= costs[piece[0]][piece[1]]
                loads[target] += costs[piece[0]][piece[1]]
    return [sorted(mine, key=lambda piece, rank=rank: (piece[0] != rank, piece)) for rank, mine in enumerate(own)]


def _best_step(
    costs: Sequence[Sequence[int]], own: Sequence[Sequence[Piece]], loads: Sequence[int]
) -> tuple[int, int, Piece, Piece | None] | None:
    """The busiest rank, another one, and what they give to each other; None: nothing lowers the busiest's load."""
    ranks = range(len(loads))
    busy = max(ranks, key=lambda rank: loads[rank])
    best, found = loads[busy], None
    for idle in sorted(ranks, key=lambda rank: loads[rank]):
        for given in own[busy]:
            for taken in (*own[idle], *((None,) if len(own[busy]) > 1 else ())):
                change = costs[given[0]][given[1]] - (0 if taken is None else costs[taken[0]][taken[1]])
                peak = max(loads[busy] - change, loads[idle] + change)
                if idle != busy and peak < best:
                    best, found = peak, (busy, idle, given, taken)
    return found
