"""Moving pieces of work between ranks until the busiest has little more than the mean."""

from collections.abc import Sequence

UNEVEN = 1.05
"""Nothing moves while the load of the busiest rank is at most this multiple of the mean: moving costs time, too."""

EVEN = 1.01
"""Moving stops at this multiple of the mean."""

Piece = tuple[int, int]
"""Rank that holds it, and its number there."""


def load_imbalance(loads: Sequence[int]) -> float:
    """Load of the busiest rank divided by the mean load."""
    return max(loads) * len(loads) / max(1, sum(loads))


def rebalance(costs: Sequence[Sequence[int]]) -> list[list[Piece]]:
    """Move one piece from the busiest rank, or swap two, as long as that lowers its load; the best step first.

    Few pieces move, unlike in a new assignment of all; a rank that has pieces keeps at least one.

    Args:
        costs: for each rank, the costs of its pieces.

    Returns:
        For each rank, the pieces assigned to it; its own ones first.
    """
    assigned = [[(rank, i) for i in range(len(rank_costs))] for rank, rank_costs in enumerate(costs)]
    loads = [sum(rank_costs) for rank_costs in costs]
    if load_imbalance(loads) <= UNEVEN:
        return assigned
    while load_imbalance(loads) > EVEN and (step := _best_step(costs, assigned, loads)) is not None:
        busy, idle, outgoing, incoming = step
        for piece, source, target in ((outgoing, busy, idle), (incoming, idle, busy)):
            if piece is not None:
                assigned[source].remove(piece)
                assigned[target].append(piece)
                loads[source] -= costs[piece[0]][piece[1]]
                loads[target] += costs[piece[0]][piece[1]]
    return [
        sorted(pieces, key=lambda piece, rank=rank: (piece[0] != rank, piece)) for rank, pieces in enumerate(assigned)
    ]


def _best_step(
    costs: Sequence[Sequence[int]], assigned: Sequence[Sequence[Piece]], loads: Sequence[int]
) -> tuple[int, int, Piece, Piece | None] | None:
    """The busiest rank, another one, and the pieces that they swap; None if no step lowers the busiest's load."""
    ranks = range(len(loads))
    busy = max(ranks, key=lambda rank: loads[rank])
    lowest_peak, best_step = loads[busy], None
    for idle in sorted(ranks, key=lambda rank: loads[rank]):
        for outgoing in assigned[busy]:
            for incoming in (*assigned[idle], *((None,) if len(assigned[busy]) > 1 else ())):
                change = costs[outgoing[0]][outgoing[1]] - (0 if incoming is None else costs[incoming[0]][incoming[1]])
                peak = max(loads[busy] - change, loads[idle] + change)
                if idle != busy and peak < lowest_peak:
                    lowest_peak, best_step = peak, (busy, idle, outgoing, incoming)
    return best_step
