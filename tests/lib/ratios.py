"""What many ratios say that were measured side by side on a noisy machine."""
import math
import statistics


def interval(values):
    """(median, low, high): a distribution-free interval of at least 95 % where there are enough values."""
    ordered = sorted(values)
    count = len(ordered)
    rank = 0
    while rank + 1 <= count // 2 and 2 * sum(math.comb(count, i) for i in range(rank + 1)) / 2 ** count <= 0.05:
        rank += 1
    low = max(rank - 1, 0)
    return statistics.median(ordered), ordered[low], ordered[count - 1 - low]
