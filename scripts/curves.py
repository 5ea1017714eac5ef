"""Prints a table and draws a plot: means over seeds of the runs that `scripts/learn-curves` made.

    python3 scripts/curves.py FOLDER STEPS PLOT NAME...
"""

import json
import pathlib
import statistics
import sys

FIGURES = {
    "pass@1": lambda row: row["train"]["pass_at_1"],
    "maj": lambda row: row["train"]["maj_at_n"],
    "held-out pass@1": lambda row: row["heldout"]["pass_at_1"],
    "held-out maj": lambda row: row["heldout"]["maj_at_n"],
}


def read(folder: pathlib.Path, name: str, steps: int) -> list[list[dict]]:
    """The rows of every seed's run, steps 0 to `steps`."""
    files = sorted(folder.glob(f"{name}-{steps}-*.jsonl"))
    runs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    whole = [run for run in runs if len(run) == steps + 1]
    if not whole or len(whole) != len(runs):
        sys.exit(f"{folder}/{name}-{steps}-*.jsonl: {len(whole)} of {len(runs)} runs are whole")
    return whole


def curve(runs: list[list[dict]], figure) -> list[float]:
    """The mean over runs, for each step."""
    return [statistics.mean(figure(row) for row in rows) for rows in zip(*runs)]


def table(runs: dict[str, list[list[dict]]], steps: int) -> str:
    lines = ["| run | seeds | " + " | ".join(FIGURES) + " | worst seed, held-out pass@1 |", "|---" * (len(FIGURES) + 3) + "|"]
    first = next(iter(runs.values()))
    before = [f"{curve(first, figure)[0]:.3f}" for figure in FIGURES.values()]
    lines.append(f"| before | {len(first)} | " + " | ".join(before) + " | |")
    for name, of_seeds in runs.items():
        after = [f"{curve(of_seeds, figure)[steps]:.3f}" for figure in FIGURES.values()]
        worst = min(run[steps]["heldout"]["pass_at_1"] for run in of_seeds)
        lines.append(f"| {name} | {len(of_seeds)} | " + " | ".join(after) + f" | {worst:.3f} |")
    return "\n".join(lines)


def plot(runs: dict[str, list[list[dict]]], path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same file from the same numbers.
    matplotlib.rcParams["svg.hashsalt"] = "ttrl"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for panel, name in zip(panels, ["pass@1", "held-out pass@1"]):
        for run, of_seeds in runs.items():
            panel.plot(curve(of_seeds, FIGURES[name]), label=run)
        panel.set(xlabel="step", title=name, ylim=(0, 1))
        panel.grid(alpha=0.3)
    panels[1].legend(loc="lower right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    folder, steps, path, *names = sys.argv[1:]
    runs = {name: read(pathlib.Path(folder), name, int(steps)) for name in names}
    print(table(runs, int(steps)))
    plot(runs, path)


if __name__ == "__main__":
    main()
