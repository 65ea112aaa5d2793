"""One quiet look for every picture: colours and markers by source, sizes, and the way to PNG.

The colours are those of Okabe and Ito (Color Universal Design, 2008), which readers with any common colour vision can
tell apart; every source has a marker of its own too. The MD is always near black.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, MUTED, FAINT = "#1a1a1a", "#5f6368", "#d5d8dc"
SCREEN_DPI = 100  # one picture unit is one CSS pixel at this resolution; files have twice as many
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"

_LEFT, _RIGHT, _BOTTOM, _TOP, _LEGEND_ROW = 70, 14, 52, 30, 20  # margins in CSS pixels

_PALETTE = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#7a5c00", "#6b4fa0"]
_MARKERS = ["s", "^", "D", "v", "P", "X", "<", ">"]
_DASHES: list[Any] = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2))]
# A word in a source's name claims places in the palette, so that colours agree between reports, too.
_PREFERRED = (
    ("gpt", (0, 5)),
    ("msm", (1, 4)),
    ("markov", (1, 4)),
    ("lstm", (2,)),
    ("kernel", (3,)),
    ("transfer", (3,)),
)
_OTHERWISE = (5, 4, 6, 7, 3, 2, 0, 1)

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "text.color": DARK,
    "axes.labelcolor": DARK,
    "axes.edgecolor": "#80868b",
    "xtick.color": "#3c4043",
    "ytick.color": "#3c4043",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9dde1",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.unicode_minus": True,
    "text.usetex": False,
    "mathtext.default": "regular",
}


@dataclass(frozen=True, slots=True)
class SourceStyle:
    """How a source is drawn, everywhere."""

    color: str
    marker: str
    dashes: Any = "-"


def source_styles(names: Sequence[str], reference: str) -> dict[str, SourceStyle]:
    """Give each source its colour and marker; the reference is dark, further MD is grey.

    Parameters
    ----------
    names : sequence of str
        Sources, in the order of the report.
    reference : str
        The MD.
    """
    styles: dict[str, SourceStyle] = {}
    taken: set[int] = set()
    for name in names:
        lower = name.lower()
        if name == reference:
            styles[name] = SourceStyle(DARK, "o")
        elif reference.lower() in lower.split() or "held" in lower.split():
            styles[name] = SourceStyle("#8a8f94", "o")
        else:
            places = next((places for word, places in _PREFERRED if word in lower), ())
            place = next((place for place in places if place not in taken), None)
            if place is not None:
                taken.add(place)
                styles[name] = SourceStyle(_PALETTE[place], _MARKERS[place])
    free = [place for place in _OTHERWISE if place not in taken]
    for k, name in enumerate(name for name in names if name not in styles):
        if k < len(free):
            styles[name] = SourceStyle(_PALETTE[free[k]], _MARKERS[free[k]])
        else:  # more sources than colours: the same ones again, with other markers and dashes
            turn, place = divmod(k - len(free), len(_PALETTE))
            marker = _MARKERS[(place + turn + 3) % len(_MARKERS)]
            styles[name] = SourceStyle(_PALETTE[place], marker, _DASHES[(turn + 1) % len(_DASHES)])
    return styles


@contextmanager
def look() -> Iterator[None]:
    """Draw in the style of the report, and leave matplotlib's settings as they were."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def new_figure(width: int, height: int, *, bottom: int = _BOTTOM, right: int = _RIGHT) -> tuple[Figure, Axes]:
    """Return a figure of width x height CSS pixels and its one axes (no pyplot, no global state).

    Margins are fixed, in pixels: panels beside each other line up, and no layout has to be searched for.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / SCREEN_DPI, height / SCREEN_DPI), dpi=SCREEN_DPI)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=_LEFT / width, right=1 - right / width, bottom=bottom / height, top=1 - _TOP / height)
    return figure, figure.subplots()


def to_png(figure: Figure) -> bytes:
    """Render a figure of `new_figure` at twice the screen's resolution, and close it.

    Files carry no version or date, so equal input gives equal bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(2 * SCREEN_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # once: savefig would lay the figure out twice
    width, height = canvas.get_width_height()
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    image = Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1)
    buffer = io.BytesIO()
    # 256 colours are indistinguishable in line drawings, and make the page a third of the size.
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG")
    return buffer.getvalue()


def plain(text: str, longest: int = 28) -> str:
    """Make a user's name safe to draw: one line, not too long, and a dollar sign does not start a formula."""
    text = " ".join(text.split())
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of an axes above it, outside the data, in rows that fit and read from left to right."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    room = float(figure.get_size_inches()[0]) * SCREEN_DPI - 16
    longest = max(len(label) for label in labels)
    if sum(6.9 * len(label) + 45 for label in labels) <= room:
        ncols = len(labels)
    else:
        ncols = max(1, int(room // (6.9 * longest + 45)))
    # matplotlib fills column by column: deal the entries out so that the rows come in the order of the sources.
    order = [index for column in range(ncols) for index in range(column, len(labels), ncols)]
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=ncols,
        borderaxespad=0.1,
        labelspacing=0.35,
    )
    # The figure grows by the legend, so that the axes keep their size.
    extra = _LEGEND_ROW * -(-len(labels) // ncols) + 4
    width, height = (float(size) * SCREEN_DPI for size in figure.get_size_inches())
    bottom, grown = figure.subplotpars.bottom * height, height + extra
    figure.set_size_inches(width / SCREEN_DPI, grown / SCREEN_DPI)
    figure.subplots_adjust(bottom=bottom / grown, top=1 - (_TOP + extra) / grown)


def say_no_data(axes: Axes, words: str) -> None:
    """Replace an empty picture by a sentence that says why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED, wrap=True)
