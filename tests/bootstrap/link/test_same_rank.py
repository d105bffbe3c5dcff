"""Both ranks of a pair with the same number: each is told. Real processes."""

import pytest

from tests.bootstrap.ranks import Rank, Start, failed


@pytest.mark.parametrize("rank", ["0", "1"])
def test_both_ranks_are_told_that_they_have_the_same_number(rank: str, pair: tuple[Rank, Rank], up: Start) -> None:
    """Once each waited for the other until its deadline."""
    runs = [up(own, peer, "--json", "--rank", rank, "--timeout", "40") for own, peer in (pair, pair[::-1])]
    for run in runs:
        event = failed(run, "same-rank")
        assert event["message"].startswith(f"the peer has rank {rank}, and so has this rank")
