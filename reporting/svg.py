"""Figures of matplotlib as SVG in a page: same bytes each time, light and dark, values on hover.

A page allows no style attribute, so every style becomes a class of the page's one style sheet, and
every colour a custom property with a light and a dark value.
"""

import io
import itertools
import re
from dataclasses import dataclass, field

import numpy as np

from plots import COLOURS

RC = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10}
RC["font.family"] = ["sans-serif"]  # the reader's browser has the others
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
MOST_HOVER_POINTS = 240  # of a figure
# The chart colours on a dark page: lighter, each still its own hue.
DARK = dict(
    zip(
        map(str.lower, COLOURS),
        ("#5cb3f0", "#ff9455", "#3fd0a0", "#e8a0cb", "#f5b93a", "#93d3fb", "#ebe9e4"),
        strict=True,
    )
)


@dataclass
class Sheet:
    """The styles and colours of all figures of a page."""

    classes: dict[str, str] = field(default_factory=dict)  # declarations -> class
    colours: dict[str, str] = field(default_factory=dict)  # custom property -> light colour

    def class_of(self, declarations: str) -> str:
        return self.classes.setdefault(declarations, f"s{len(self.classes)}")

    def colour(self, colour: str, inverted: bool) -> str:
        name = f"--{'i' if inverted else 'c'}{colour[1:]}"
        self.colours[name] = colour
        return f"var({name})"

    def css(self) -> str:
        """The rules of all figures, colours in their light and dark values."""
        colours = sorted(self.colours.items())
        light = "".join(f"{name}:{value};" for name, value in colours)
        dark = "".join(f"{name}:{dark_colour(name, value)};" for name, value in colours)
        rules = "".join(f".{name}{{{text}}}" for text, name in self.classes.items())
        scheme = "@media screen and (prefers-color-scheme:dark)"
        return f":root{{{light}}}\n{scheme}{{:root{{{dark}}}}}\n{rules}\n"


def dark_colour(name: str, colour: str) -> str:
    """The colour on a dark page: a chart colour by table, any other with its lightness turned."""
    if not name.startswith("--i") and colour in DARK:
        return DARK[colour]
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    lab = CUBED @ np.cbrt(LINEAR @ linear)
    lab[0] = 0.21 + 0.73 * max(1 - lab[0], 0) ** 0.7
    linear = np.clip(np.linalg.solve(LINEAR, np.linalg.solve(CUBED, lab) ** 3), 0, 1)
    rgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


# Oklab (Ottosson 2020): linear sRGB to cone responses, and their cube roots to L, a and b.
LINEAR = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
CUBED = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@dataclass(frozen=True)
class Drawing:
    """A figure in the page: its markup, its words, and what it says at a place."""

    markup: str
    title: str
    caption: str
    points: list[list]  # [x, y, text] in the units of the view box


def draw(figure, name: str, sheet: Sheet, inverted: bool = False) -> Drawing:
    """Turn a matplotlib figure into markup whose ids begin with `name`.

    inverted: also chart colours are turned light to dark, where they stand for an amount.
    """
    title, caption = take_words(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=NO_METADATA)
    markup = text.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<!--.*?-->\s*", "", markup, flags=re.S)
    markup = re.sub(r"<metadata>.*?</metadata>\s*", "", markup, flags=re.S)
    markup = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", markup, flags=re.S)
    opening = re.match(r"<svg[^>]*>", markup)[0]
    box = re.search(r'viewBox="[^"]*"', opening)[0]
    described = f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-about"'
    body = re.sub(
        r"<\w[^>]*>", lambda tag: in_page(tag[0], name, sheet, inverted), markup[len(opening) :]
    )
    markup = f'<svg {box} {described} class="{size_of(figure)}">{body}'
    markup = re.sub(r"\n\s*", "\n", markup)
    return Drawing(markup.strip(), title, caption, hover_points(figure))


def in_page(tag: str, name: str, sheet: Sheet, inverted: bool) -> str:
    """One tag with its ids, style and numbers as a page has them; texts between tags stay."""
    tag = re.sub(r'\bid="seed-(\d+)[^"]*"', r'class="seed" data-seed="\1"', tag)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag)
    tag = re.sub(r"-?\d+\.\d{2,}", fewer_digits, tag)
    tag = re.sub(r'\b(fill|stroke)="(#[0-9a-f]{6})"', r'style="\1: \2"', tag)
    return re.sub(r'style="([^"]*)"', lambda m: f'class="{class_of(m[1], sheet, inverted)}"', tag)


def fewer_digits(match: re.Match) -> str:
    """A number as far as a screen tells it: a tenth of a point, of small shapes a hundredth."""
    number = float(match[0])
    return f"{number:.{1 if abs(number) >= 10 else 2}f}".rstrip("0").rstrip(".")


def size_of(figure) -> str:
    """How wide a figure is: three widths are told apart, so that texts stay legible."""
    width = figure.get_figwidth()
    return "wide" if width > 10 else "middle" if width > 8 else "narrow"


def class_of(style: str, sheet: Sheet, inverted: bool) -> str:
    """The class of a style attribute; fonts are the page's own."""
    style = re.sub(r"font: (?:[\w-]+ )*?([\d.]+px) [^;]*", r"font-size:\1", style)
    style = re.sub(r"font-family: [^;]*;?", "", style)
    style = re.sub(r"#[0-9a-f]{6}", lambda m: sheet.colour(m[0], inverted), style)
    return sheet.class_of(re.sub(r"\s*([:;])\s*", r"\1", style).strip("; "))


def take_words(figure) -> tuple[str, str]:
    """Take title and caption out of a figure, for the page to say; ("", …) of several axes."""
    axes = [ax for ax in figure.axes if ax.get_title(loc="left")]
    title = ""
    if len(axes) == 1:
        title = axes[0].get_title(loc="left")
        axes[0].set_title("", loc="left")
    caption = figure._supxlabel.get_text() if figure._supxlabel else ""
    figure.suptitle("")
    figure.supxlabel("")
    return (" ".join(text.split()) for text in (title, caption))


# ------------------------------------------------------------------------------------------------
# values
# ------------------------------------------------------------------------------------------------


def hover_points(figure) -> list[list]:
    """[x, y, text] of what a drawn figure shows, thinned evenly to MOST_HOVER_POINTS."""
    width, height = 72 * figure.get_size_inches()
    points = []
    for ax in figure.axes:
        for label, xs, ys, notes in shown_in(ax):
            places = ax.transData.transform(np.column_stack([xs, ys])) / figure.bbox.size
            for (u, v), x, y, note in zip(places, xs, ys, notes, strict=True):
                if 0 <= u <= 1 and 0 <= v <= 1:
                    text = note or f"{label}: {shown(ax.yaxis, y)} at {shown(ax.xaxis, x)}"
                    points.append([round(u * width, 1), round((1 - v) * height, 1), text])
    every = -(-len(points) // MOST_HOVER_POINTS) or 1
    return points[::every]


def shown_in(ax):
    """(label, x [n], y [n], a text [n] or None each) of each line, bar and dot with a name."""
    named = {c[0]: c.get_label() for c in ax.containers if hasattr(c, "has_yerr")}
    for line in ax.lines:
        label = named.get(line, line.get_label()).split(" (n = ")[0]
        if label.startswith("_"):
            continue
        xs, ys = (np.asarray(values, dtype=float) for values in line.get_data())
        finite = np.isfinite(xs) & np.isfinite(ys)
        yield label, xs[finite], ys[finite], itertools.repeat(None, int(finite.sum()))
    for bars in (c for c in ax.containers if hasattr(c, "patches")):
        yield from shown_bars(ax, bars)
    for dots in (c for c in ax.collections if type(c).__name__ == "PathCollection"):
        places, counts = np.asarray(dots.get_offsets(), dtype=float), dots.get_array()
        if counts is not None and len(places):
            xs, ys = places.T
            notes = [
                f"{n:,.0f} examples: {shown(ax.yaxis, y)} IN, {shown(ax.xaxis, x)} OUT"
                for n, x, y in zip(counts, xs, ys, strict=True)
            ]
            yield "", xs, ys, notes


def shown_bars(ax, bars):
    """The middle of each bar lying on its side, and its length in words."""
    label = bars.get_label()
    for bar in bars.patches:
        if not label.startswith("_") and bar.get_width():
            x, y = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2
            length = shown(ax.xaxis, bar.get_width())
            yield label, np.array([x]), np.array([y]), [f"{label}: {length}, {shown(ax.yaxis, y)}"]


def shown(axis, value: float) -> str:
    """A value as the axis would write it, with more digits than its ticks have."""
    formatter = axis.get_major_formatter()
    kind = type(formatter).__name__
    if kind == "FixedFormatter":
        ticks = axis.get_majorticklocs()
        return " ".join(formatter.seq[int(np.argmin(np.abs(ticks - value)))].split())
    if kind == "PercentFormatter":
        return f"{100 * value:.1f} %"
    if kind == "FuncFormatter":  # points
        return formatter(value, 0) or f"{value:.4g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
