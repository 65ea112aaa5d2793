"""What the page shows: pictures with captions, grouped by question."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nanomd.base.errors import InputError
from nanomd.report.style import SCREEN_DPI, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PNG_BYTES = 20_000_000
MAX_WIDTH = 720  # CSS pixels of a picture that a caller brings


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A picture that a caller adds to the report.

    Parameters
    ----------
    title, caption : str
        Heading, and what one sees and how to read it. Plain text; escaped by the page.
    picture : Figure, bytes, str or Path
        A matplotlib figure, the bytes of a PNG, or the path of a PNG file.
    """

    title: str
    caption: str
    picture: Figure | bytes | str | Path

    def png(self) -> bytes:
        """Return the picture as PNG, or raise `InputError` if it is none."""
        if isinstance(self.picture, (str, Path)):
            path = Path(self.picture)
            try:
                if path.stat().st_size > MAX_PNG_BYTES:
                    raise InputError(f"extra figure {path} must be at most {MAX_PNG_BYTES} bytes")
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read the extra figure {path}: {error.strerror}") from None
        elif isinstance(self.picture, bytes):
            data = self.picture
        else:
            from matplotlib.figure import Figure

            if not isinstance(self.picture, Figure):
                raise InputError(
                    f"extra figure {self.title!r} must be a matplotlib Figure, PNG bytes or a path, "
                    f"got {type(self.picture).__name__}"
                )
            buffer = io.BytesIO()
            self.picture.savefig(buffer, format="png", dpi=2 * SCREEN_DPI, metadata={"Software": None})
            return buffer.getvalue()
        if not data.startswith(_PNG_SIGNATURE) or len(data) < 24:
            raise InputError(f"extra figure {self.title!r} is not a PNG picture; convert it first")
        return data


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: stem of its file, words for those who cannot see it, PNG bytes, width in CSS pixels."""

    stem: str
    alt: str
    png: bytes
    width: int
    alone: bool = False  # in a row of its own
    figure: Figure | None = None  # to be written in other formats; None of a picture that a caller brings

    def vector(self, kind: str) -> bytes | None:
        """Return the picture as ``"pdf"`` or ``"svg"``, the same bytes whenever it is the same picture."""
        if self.figure is None:
            return None
        import matplotlib

        buffer = io.BytesIO()
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
        with matplotlib.rc_context({"svg.hashsalt": self.stem, "pdf.fonttype": 42}):
            self.figure.savefig(buffer, format=kind, metadata=undated)
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that answer one question, under one heading and one caption."""

    key: str
    title: str
    caption: str
    columns: int = 0  # pictures side by side on a wide screen; 0 leaves it to the page
    panels: list[Panel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: Figure, alt: str, alone: bool = False, name: str = "") -> None:
        """Render a figure and append it; `name` says which of the group's it is, in the name of its file."""
        width = round(float(figure.get_size_inches()[0]) * SCREEN_DPI)
        self.panels.append(Panel(self._stem(name), alt, to_png(figure), width, alone, figure))

    def add_png(self, png: bytes, alt: str) -> None:
        """Append a picture of a caller, shown at no more than the page's width."""
        pixels = struct.unpack(">I", png[16:20])[0]
        self.panels.append(Panel(self._stem(""), alt, png, int(min(max(pixels, 200), MAX_WIDTH))))

    def _stem(self, name: str) -> str:
        """Return a stem for a file: the key and the name in plain letters, with a number if that is taken."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40]
        stem, taken = f"{self.key}_{plain}" if plain else self.key, {panel.stem for panel in self.panels}
        return next(s for k in range(1, len(taken) + 2) if (s := stem if k == 1 else f"{stem}_{k}") not in taken)
