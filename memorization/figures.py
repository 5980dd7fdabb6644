"""Figures of a panel, in the style of plots.py: pure functions of the results and the columns of
per_example.csv.

    bit_budget.png           rule, memory and unexplained bits of each group, with intervals
    bit_budget_epochs.png    the same over training, as areas
    map.png                  every example: exact match OUT across, IN up
    memory_by_repeats.png    memory over repeat counts, with the band of permuted masks
    exposure.png             exposure of canaries over their repeats, with the band without memory
    roc.png                  membership inference on logarithmic axes
    extraction.png           examples within reach of so many samples, IN and OUT
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metrics import Z_95
from plots import (
    COLOURS,
    DPI,
    caption,
    label_axes,
    legend_below,
    log_axis,
    look,
    new_figure,
    own_style,
    points_axis,
    proportion_axis,
    shorten,
)
from runtime.files import write_atomically

PARTS = {  # colour and hatch: apart in greyscale too
    "rule": (COLOURS[0], ""),
    "memory": (COLOURS[1], ""),
    "unexplained": ("#D9D9D9", "///"),
}
REPLICAS = "95 % over {} replicas"
MOST_PANELS = 6


class Named(NamedTuple):
    """What plots.new_figure needs of a run."""

    name: str


def figure(results: dict, width: float, height: float, widths: tuple[float, ...] = (1,)):
    name = Path(results["panel"]["folder"]).name
    return new_figure([Named(name)], width, height, widths)


def unit(results: dict) -> str:
    return REPLICAS.format(results["panel"]["replicas"])


def ends(rows: list[dict], key: str) -> np.ndarray:
    """float [2, n]: how far the interval of each row reaches below and above; 0 where none is."""
    value, low, high = (column(rows, f"{key}{end}") for end in ("", "_low", "_high"))
    return np.nan_to_num(np.stack([value - low, high - value]))


def column(rows: list[dict], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], dtype=np.float64)  # None becomes nan


# ------------------------------------------------------------------------------------------------
# bit budget
# ------------------------------------------------------------------------------------------------


def budget_figure(results: dict, columns: dict):
    """Three bars a group, each from where the one above it ends: they add up to the answer's bits,
    and a rule below 0 stays visible.
    """
    rows = [row for row in results["budget"] if row["bits"] is not None]
    if not rows:
        return None
    fig, (ax,) = figure(results, 9.5, 1.6 + 0.95 * len(rows))
    for g, row in enumerate(rows):
        start = 0.0
        for k, (part, (colour, hatch)) in enumerate(PARTS.items()):
            y, end = g + 0.27 * (k - 1), start + row[part]
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "height": 0.25}
            ax.barh(y, row[part], left=start, label=part if not g else None, **style)
            reach = ends([row], part)
            ax.errorbar(end, y, xerr=reach, color="black", capsize=2.5, linewidth=1)
            edge = max(start, end + reach[1, 0])
            ax.annotate(f"{row[part]:.2f}", (edge, y), (4, 0), va="center", fontsize=8, **OFFSET)
            start = end
        ax.vlines(row["bits"], g - 0.45, g + 0.45, color="black", linewidth=1.4)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"{shorten(r['group'])}\nn = {r['n']:,}" for r in rows])
    ax.invert_yaxis()
    ax.margins(x=0.08)
    first = rows[0]
    title = (
        f"{first['group']}: {first['rule']:.1f} of {first['bits']:.1f} bits by rule, "
        f"{first['memory']:.1f} by memory, {first['unexplained']:.1f} unexplained"
    )
    label_axes(ax, title, "bits of an answer and its end", "")
    legend_below(ax)
    said = "Each bar starts where the one above it ends; upright line: all bits."
    caption(fig, f"{said} {unit(results)}.")
    return fig


OFFSET = {"textcoords": "offset points"}


def budget_epochs_figure(results: dict, columns: dict):
    """Areas over the kept epochs, one panel a group."""
    series = {
        group: [row for row in rows if row["bits"] is not None]
        for group, rows in results["budget_over_epochs"].items()
    }
    series = {group: rows for group, rows in series.items() if len(rows) > 1}
    groups = list(series)[:MOST_PANELS]
    if not groups:
        return None
    fig, axes = figure(results, 3.4 + 3.1 * len(groups), 3.9, (1,) * len(groups))
    for ax, group in zip(axes, groups, strict=True):
        rows = series[group]
        x, rule, memory, bits = (column(rows, k) for k in ("epoch", "rule", "memory", "bits"))
        bands = {"rule": (0 * rule, rule), "unexplained": (rule + memory, bits)}
        bands["memory"] = (rule, rule + memory)
        for part, (low, high) in bands.items():
            colour, hatch = PARTS[part]
            ax.fill_between(x, low, high, color=colour, hatch=hatch, edgecolor="white", label=part)
        against = {"facecolor": "none", "edgecolor": COLOURS[0], "hatch": "xx", "linewidth": 0}
        if rule.min() < 0:  # memory has to fill what the rule takes away
            below = {"where": rule < 0, "interpolate": True, "label": "rule below 0"}
            ax.fill_between(x, rule, 0, **below, **against)
        ax.plot(x, rule, color="black", linewidth=0.8)
        ax.plot(x, rule + memory, color="black", linewidth=0.8)
        ax.axhline(0, color="0.4", linewidth=0.8)
        log_axis(ax.xaxis, x.min(), x.max())
        ax.set_xticks([*(n for n in ax.get_xticks() if x.min() <= n <= x.max() / 1.4), x.max()])
        ax.set_xlim(x.min(), x.max())
        title = f"{group}: {rule[-1]:.1f} rule, {memory[-1]:.1f} memory"
        label_axes(ax, title, "epoch", "bits of an answer" if ax is axes[0] else "")
    labelled = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    beside = {"fontsize": 9, "loc": "upper left", "bbox_to_anchor": (1.01, 1)}
    axes[-1].legend(list(labelled.values()), list(labelled), **beside)
    others = len(series) - len(groups)
    note = f" {others} groups more are in memorization_results.json." if others else ""
    caption(fig, f"Means over {results['panel']['replicas']} replicas at the kept epochs.{note}")
    return fig


# ------------------------------------------------------------------------------------------------
# the map
# ------------------------------------------------------------------------------------------------


def kinds_of_rows(columns: dict) -> dict[str, np.ndarray]:
    """Kind -> rows of per_example.csv that have both rates."""
    rates = zip(columns["exact_in"], columns["exact_out"], strict=True)
    known = np.array([None not in pair for pair in rates])
    canary, wrong = np.array(columns["canary"]), np.array(columns["wrong_answer"])
    kinds = {"right answers": ~wrong, "wrong answers": wrong & ~canary, "canaries": canary}
    found = {name: np.flatnonzero(mask & known) for name, mask in kinds.items()}
    return {name: rows for name, rows in found.items() if len(rows)}


def places_on_map(columns: dict) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind -> (OUT and IN rate of each place [n, 2], examples there [n])."""
    places = {}
    for name, rows in kinds_of_rows(columns).items():
        pairs = [(columns["exact_out"][i], columns["exact_in"][i]) for i in rows]
        places[name] = np.unique(np.round(pairs, 2), axis=0, return_counts=True)
    return places


def map_figure(results: dict, columns: dict):
    """OUT rate across, IN rate up. Dots at one place are one dot, coloured by how many they are."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    places = places_on_map(columns)
    if not places:
        return None
    most = max(int(counts.max()) for _, counts in places.values())
    norm = LogNorm(1, max(most, 2))
    ends = [COLOURS[5], COLOURS[0], "black"]
    density = LinearSegmentedColormap.from_list("density", ends, N=24)  # more would be a raster
    fig, axes = figure(results, 1.6 + 4.1 * len(places), 4.7, (1,) * len(places))
    for ax, (name, (at, counts)) in zip(axes, places.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, zorder=1)
        order = np.argsort(counts)
        sizes = 14 + 60 * np.sqrt(counts[order] / most)
        colours = {"c": counts[order], "norm": norm, "cmap": density}
        ax.scatter(*at[order].T, s=sizes, edgecolors="white", linewidths=0.4, zorder=2, **colours)
        for axis in (ax.xaxis, ax.yaxis):
            proportion_axis(axis, 1)
        ax.set_aspect("equal")
        mean_out, mean_in = counts @ at / counts.sum()
        title = f"{name} (n = {counts.sum():,}): IN {mean_in:.0%}, OUT {mean_out:.0%}"
        y = "exact match, IN replicas" if ax is axes[0] else ""
        label_axes(ax, title, "exact match, OUT replicas", y)
    bar = fig.colorbar(ScalarMappable(norm, density), ax=list(axes), shrink=0.75)
    bar.solids.set_edgecolor("face")
    log_axis(bar.ax.yaxis, 1, max(most, 2))
    bar.set_label("examples at one place")
    replicas, unsure = results["panel"]["replicas"], ""
    if not results["claims"]["distributions"]:
        unsure = " They are too few for distributions: noise spreads the dots too."
    caption(
        fig,
        "A dot is one example or several. On the dashed line having seen it adds nothing, the rule "
        "answers; in the upper left only those know it that saw it, from memory. About "
        f"{replicas * results['panel']['share']:.0f} replicas IN, the others OUT.{unsure}",
    )
    return fig


# ------------------------------------------------------------------------------------------------
# repeats and canaries
# ------------------------------------------------------------------------------------------------


def repeats_figure(results: dict, columns: dict):
    """Memory over repeat counts, in exact match and in bits, with what permuted masks give."""
    tables = results["by_repeat_count"]
    if max(map(len, tables.values())) < 2:
        return None
    fig, axes = figure(results, 11.5, 4.2, (1, 1))
    counts = sorted({row["repeat_count"] for rows in tables.values() for row in rows})
    for ax, outcome in zip(axes, ("exact", "bits"), strict=True):
        for i, (kind, rows) in enumerate(tables.items()):
            x, own = column(rows, "repeat_count"), [row[outcome] for row in rows]
            x = x * 1.04**i  # so that intervals do not hide each other
            label = f"{kind} answers"
            style = {"capsize": 2.5, "markersize": 5, **look(i)}
            ax.errorbar(x, column(own, "memory"), yerr=ends(own, "memory"), label=label, **style)
            mean, sd = (column([row["null"] for row in own], key) for key in ("mean", "sd"))
            band = {"color": look(i)["color"], "alpha": 0.15, "lw": 0}
            label = f"{kind} answers, permuted masks"
            ax.fill_between(x, mean - Z_95 * sd, mean + Z_95 * sd, label=label, **band)
        ax.axhline(0, color="0.4", linewidth=0.8)
        log_axis(ax.xaxis, counts[0], counts[-1])
        ax.set_xticks(counts)
        ax.xaxis.minorticks_off()
    right = next(iter(tables.values()))
    first, last = right[0], right[-1]
    title = (
        f"Having seen an example adds {100 * first['exact']['memory']:.1f} points at "
        f"{first['repeat_count']} row, {100 * last['exact']['memory']:.1f} at "
        f"{last['repeat_count']}"
    )
    points_axis(axes[0].yaxis)
    label_axes(axes[0], title, "rows of the example", "memory, points of exact match")
    label_axes(axes[1], "The same in bits", "rows of the example", "memory, bits")
    axes[1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    caption(fig, f"Intervals: {unit(results)}. Bands around 0: 95 % of permuted masks.")
    return fig


def exposure_figure(results: dict, columns: dict):
    """Exposure over how often a replica trained on the canary; at 0 it is its own null."""
    found = results["exposure"]
    if not found:
        return None
    rows = found["rows"]
    fig, (ax,) = figure(results, 7.5, 4.4)
    x = np.arange(len(rows))
    band = {"color": "0.6", "alpha": 0.35, "lw": 0, "label": "95 % of canaries without memory"}
    ax.fill_between(x, column(rows, "null_low"), column(rows, "null_high"), **band)
    ax.plot(x, column(rows, "expected"), color="0.4", linestyle="--", label="their mean")
    style = {"capsize": 3, "markersize": 6, "label": "canaries", **look(1)}
    ax.errorbar(x, column(rows, "exposure"), yerr=ends(rows, "exposure"), **style)
    most = column(rows, "most")
    ax.plot(x, most, color="0.4", linestyle=":", label="most: all canaries at rank 1")
    ax.set_xticks(x, [str(row["repeat_count"]) for row in rows])
    ax.set_ylim(0, 1.06 * most.max())
    last = rows[-1]
    title = (
        f"Exposure: {last['exposure']:.1f} bits at {last['repeat_count']} repeats, where "
        f"{last['expected']:.1f} would come without memory"
    )
    label_axes(ax, title, "rows of the canary in a replica's training", "exposure, bits")
    legend_below(ax)
    canaries = max(row["n_canaries"] for row in rows)
    caption(fig, f"Intervals: {unit(results)}. Band: 95 % over {canaries} canaries.")
    return fig


# ------------------------------------------------------------------------------------------------
# membership inference and extraction
# ------------------------------------------------------------------------------------------------


def roc_figure(results: dict, columns: dict):
    """Share of members found over the share of non-members taken for members."""
    found = results["membership"]
    curves = {n: row for n, row in found["attacks"].items() if row["curve"]["tpr"] is not None}
    if not curves:
        return None
    fig, (ax,) = figure(results, 6.8, 5.6)
    least = 1 / max(row["n_non_members"] for row in curves.values())
    for i, (name, row) in enumerate(curves.items()):
        draw_roc(ax, row, least, label=f"{name}: AUC {row['auc']:.3f}", **look(i), markevery=0.2)
    null = found["null"]["LiRA"]
    if null["curve"]["tpr"] is not None:
        style = {"color": "0.45", "linewidth": 2.2, "alpha": 0.7}
        draw_roc(ax, null, least, label=f"LiRA, permuted masks: AUC {null['auc']:.3f}", **style)
    low = max(least, 1e-5)
    ax.plot([low, 1], [low, 1], color="0.5", linestyle="--", linewidth=1, label="guessing")
    for axis in (ax.xaxis, ax.yaxis):
        log_axis(axis, low, 1)
    ax.set_xlim(low, 1)
    ax.set_ylim(low, 1.1)
    lira = found["attacks"]["LiRA"]
    title = "Membership inference"
    if lira["tpr_at_fpr_0.01"] is not None:
        title += f": LiRA finds {lira['tpr_at_fpr_0.01']:.1%} of members at 1 % false positives"
    label_axes(ax, title, "false positive rate", "true positive rate")
    ax.legend(fontsize=8.5, loc="lower right")
    caption(fig, f"Each of {results['panel']['replicas']} replicas is the target in turn.")
    return fig


def draw_roc(ax, row: dict, least: float, **style) -> None:
    fpr, tpr = np.array(row["curve"]["fpr"]), np.array(row["curve"]["tpr"])
    shown = (fpr >= least) & (tpr > 0)
    ax.plot(fpr[shown], tpr[shown], markersize=4, **style)


def extraction_figure(results: dict, columns: dict):
    """Share of examples whose answer is drawn within so many samples, IN and OUT."""
    tables = {kind: found["curve"] for kind, found in results["extraction"].items()}
    tables = {kind: rows for kind, rows in tables.items() if rows[0]["in"] is not None}
    if not tables:
        return None
    fig, axes = figure(results, 2 + 4 * len(tables), 4.3, (1,) * len(tables))
    for ax, (kind, rows) in zip(axes, tables.items(), strict=True):
        x = column(rows, "samples")
        for i, side in enumerate(("in", "out")):
            low, high = column(rows, f"{side}_low"), column(rows, f"{side}_high")
            ax.plot(x, column(rows, side), label=side.upper(), markersize=5, **look(i))
            ax.fill_between(x, low, high, color=look(i)["color"], alpha=0.2, lw=0)
        log_axis(ax.xaxis, x.min(), x.max())
        proportion_axis(ax.yaxis, 1)
        title = f"{kind} answers: {rows[0]['in']:.0%} IN, {rows[0]['out']:.0%} OUT by one sample"
        label_axes(ax, title, "samples", "examples within reach" if ax is axes[0] else "")
    axes[0].legend(fontsize=9)
    caption(fig, f"Drawn at least once with probability 1/2. Bands: {unit(results)}.")
    return fig


FIGURES = {
    "bit_budget.png": budget_figure,
    "bit_budget_epochs.png": budget_epochs_figure,
    "map.png": map_figure,
    "memory_by_repeats.png": repeats_figure,
    "exposure.png": exposure_figure,
    "roc.png": roc_figure,
    "extraction.png": extraction_figure,
}


def write_figures(results: dict, columns: dict, out_dir: Path) -> list[Path]:
    """Draw what there is data for; a figure of an earlier call that is not drawn now goes."""
    images = {}
    with own_style():
        for name, draw in FIGURES.items():
            if (drawn := draw(results, columns)) is not None:
                images[out_dir / name] = io.BytesIO()
                drawn.savefig(images[out_dir / name], format="png", dpi=DPI)
    for path, image in images.items():
        write_atomically(path, image.getvalue())
    for name in FIGURES:
        if out_dir / name not in images:
            (out_dir / name).unlink(missing_ok=True)
    return list(images)
