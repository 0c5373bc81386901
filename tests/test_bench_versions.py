"""The interval of bench/versions.py."""

import pytest

from versions import interval


@pytest.mark.parametrize(("n", "rank"), [(5, 1), (6, 1), (9, 2), (15, 4), (21, 6), (25, 8)])
def test_the_interval_of_a_median_is_that_of_the_tables(n: int, rank: int) -> None:
    """The largest rank below which a binomial of n and 1/2 falls with at most 2.5 %; five values have none, and give their range."""
    assert interval([float(value) for value in range(n, 0, -1)]) == (rank, n + 1 - rank)
