"""Seeds as they are written on the command line."""

from __future__ import annotations

from tpbench.engine import UsageError


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0-9``, ``3`` or ``0,2,5-7`` as seeds.

    Raises:
        UsageError: it is none of these, or a seed is not below 2^32.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        bounds = [first, last if dash else first]
        # Python limits how many digits int() takes; nobody means a seed of more than ten.
        if not all(b.isascii() and b.isdigit() and len(b) <= 10 for b in bounds):
            raise UsageError(f"seeds '{text}': write a seed, a range or a list of them: 0-9 or 0,2,5-7")
        low, high = int(bounds[0]), int(bounds[1])
        if low > high or high >= 2**32 or high - low >= 10_000:
            raise UsageError(
                f"seeds '{text}': a range goes from a smaller to a larger seed below 2^32, at most 10,000 long"
            )
        seeds += range(low, high + 1)
    return tuple(dict.fromkeys(seeds))
