"""What the page shows: pictures with captions, grouped by question."""

from __future__ import annotations

import io
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


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that answer one question, under one heading and one caption."""

    key: str
    title: str
    caption: str
    columns: int = 0  # pictures side by side on a wide screen; 0 leaves it to the page
    panels: list[Panel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: Figure, alt: str, alone: bool = False) -> None:
        """Render a figure and append it."""
        width = round(float(figure.get_size_inches()[0]) * SCREEN_DPI)
        self._append(to_png(figure), alt, width, alone)

    def add_png(self, png: bytes, alt: str) -> None:
        """Append a picture of a caller, shown at no more than the page's width."""
        pixels = struct.unpack(">I", png[16:20])[0]
        self._append(png, alt, int(min(max(pixels, 200), MAX_WIDTH)))

    def _append(self, png: bytes, alt: str, width: int, alone: bool = False) -> None:
        stem = self.key if not self.panels else f"{self.key}_{len(self.panels) + 1}"
        self.panels.append(Panel(stem, alt, png, width, alone))
