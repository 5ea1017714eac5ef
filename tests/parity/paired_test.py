"""Golden values for the difference of paired shares: Tango's score interval, without its closed forms.

    python tests/parity/paired_test.py

Writes tests/fixtures/paired.json. Needs nothing but Python. Under a difference `d` of the two shares the likelihood of
the counts is maximised by a search, the score statistic takes its variance from there, and the ends of the interval are
where the statistic is at the normal quantile, found by another search.
"""

import json
import math
from pathlib import Path
from statistics import NormalDist

FIXTURE = Path(__file__).parents[1] / "fixtures" / "paired.json"

# Both right, only the live version, only the candidate, neither; confidence at each end.
CASES = [
    # Airway hyper-responsiveness, in Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33: 2850).
    ((1, 7, 1, 12), 0.975),
    ((100, 10, 12, 78), 0.95),
    ((100, 10, 12, 78), 0.975),
    ((400, 20, 35, 45), 0.95),
    ((30, 0, 8, 12), 0.95),
    ((30, 8, 0, 12), 0.95),
    ((43, 0, 0, 7), 0.95),
    ((0, 0, 0, 5), 0.9),
    ((0, 6, 0, 0), 0.95),
    ((0, 0, 6, 0), 0.95),
    ((0, 3, 4, 0), 0.99),
    ((1, 0, 0, 0), 0.95),
    ((1200, 150, 210, 440), 0.999),
]


def maximum(function, low, high):
    """Where a concave function is largest, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(300):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if function(a) < function(b):
            low = a
        else:
            high = b
    return (low + high) / 2


def log(count, probability):
    if count == 0:
        return 0.0
    return count * math.log(probability) if probability > 0 else -math.inf


def statistic(counts, d):
    """The score statistic of H0: share of the candidate - share of the live version = d."""
    both, live, candidate, neither = counts
    n = sum(counts)

    def likelihood(p_live):
        # Only the live version with p_live, only the candidate with p_live + d, the same with the rest.
        return log(live, p_live) + log(candidate, p_live + d) + log(both + neither, 1 - d - 2 * p_live)

    p_live = maximum(likelihood, max(0.0, -d), (1 - d) / 2)
    variance = n * (2 * p_live + d - d * d)
    gap = candidate - live - n * d
    if variance <= 1e-15:
        return math.copysign(math.inf, gap) if abs(gap) > 1e-9 else 0.0
    return gap / math.sqrt(variance)


def crossing(counts, z):
    """Where the statistic, which falls as d rises, is z."""
    low, high = -1.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if statistic(counts, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def main():
    rows = []
    for counts, confidence in CASES:
        z = NormalDist().inv_cdf(confidence)
        interval = [round(crossing(counts, z), 7), round(crossing(counts, -z), 7)]
        rows.append(json.dumps({"counts": counts, "confidence": confidence, "interval": interval}))
    FIXTURE.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
