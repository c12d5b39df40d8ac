"""The paging comparison as a picture: the fraction of its limit that each kind of work reached, over what fits.

    python bench/compare/paging_plot.py FOLDER/paging.json bench/plots/paging.svg

Needs matplotlib (requirements-plot.txt).
"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

import paging_table

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402 the backend comes first

# What was wanted of every row, and of one stream below one half.
WANTED, WANTED_BELOW_HALF = 0.80, 0.85


def fractions(model, share):
    """work -> its fraction of the limit in every round."""
    resident = {key: statistics.median(round_["resident"][key[0]][key[1]]["median"] for round_ in model["rounds"])
                for key in paging_table.ROWS}
    found = {}
    for round_ in model["rounds"]:
        measured = round_["shares"][share]
        for key, (shown, missed, _hits, tokens) in paging_table.ROWS.items():
            report = measured["works"][key[0]]
            part, _bound, _limit = paging_table.fraction(report[key[1]]["median"], resident[key], report[missed]["median"],
                                                         tokens, paging_table.disk_bandwidth(measured))
            found.setdefault(shown, []).append(part)
    return found


def draw(axes, model):
    shares = list(model["rounds"][0]["shares"])
    by_share = [fractions(model, share) for share in shares]
    works = list(by_share[0])
    for place, work in enumerate(works):
        at = [group + (place - (len(works) - 1) / 2) * 0.2 for group in range(len(shares))]
        middle = [statistics.median(found[work]) for found in by_share]
        below = [m - min(found[work]) for m, found in zip(middle, by_share)]
        above = [max(found[work]) - m for m, found in zip(middle, by_share)]
        axes.bar(at, middle, width=0.18, yerr=[below, above], capsize=2, label=work)
    axes.axhline(1, color="black", linewidth=0.8)
    for group in range(len(shares)):
        wanted = WANTED if group == 0 else WANTED_BELOW_HALF
        axes.plot([group - 0.4, group + 0.4], [wanted, wanted], color="black", linestyle="dotted", linewidth=1)
    axes.set_xticks(range(len(shares)), [f"{float(share):g} %" for share in shares])
    axes.set_xlabel("of the experts fit")
    axes.set_title(f"{model['model']} routing")


def main():
    source, target = map(Path, sys.argv[1:])
    models = json.loads(source.read_text())["models"]
    plt.rcParams["svg.hashsalt"] = "odmoe"
    figure, panels = plt.subplots(1, len(models), figsize=(4.5 * len(models), 4), sharey=True, squeeze=False,
                                  layout="constrained")
    for axes, model in zip(panels[0], models):
        draw(axes, model)
    panels[0][0].set_ylabel("of the limit (dotted: wanted)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
