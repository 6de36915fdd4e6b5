"""Reports as one HTML page that needs nothing beside itself: templates filled, plots as SVG, pictures as data URIs.

What a report says stands in `templates/*.html.j2` and in the modules that fill them; `base.html.j2` holds the style.
Jinja2 and matplotlib are imported when a page is made, so that a node that writes one at its end starts without them.
"""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_MISSING = "–"
_JPEG_QUALITY = 85
_STYLE: Any = {  # matplotlib spells out every key as a type
    "svg.fonttype": "none",  # text stays text: small, searchable, and in the page's own font
    "svg.hashsalt": "transkd_ros",  # the same plot gives the same bytes
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": "#3c4043",
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8eaed",
}
SERIES = ("#1a5fb4", "#c64600", "#26876b", "#813d9c", "#986a44", "#5e5c64")
"""Colours of the lines of a plot: the first is the first model or camera, and so on around."""


def render(template: str, **values: Any) -> str:
    """The page that `templates/<template>` makes of `values`; texts are escaped unless the template calls them safe.

    Filters of the templates: `percent` (a fraction as "72.7"), `number` (with so many decimals), `count` ("12 345");
    None and nan show as a dash. Raises jinja2.UndefinedError for a value that the template needs and does not get.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "count": count}
    return environment.get_template(template).render(**values)


def axes(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of that size in inches (of 96 CSS pixels) with one set of axes in the pages' style."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure and wants the main thread

    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        return made, made.subplots()


def figure(fig: Figure) -> str:
    """A matplotlib figure as an SVG element, for the template to place with `{{ plot | safe }}`."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        fig.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]  # without the XML declaration, which only a file of its own may have


def png(fig: Figure) -> bytes:
    """A matplotlib figure as a PNG file, at its own dpi."""
    with io.BytesIO() as file:
        fig.savefig(file, format="png")
        return file.getvalue()


def picture(rgb: np.ndarray) -> str:
    """(H, W, 3) uint8 RGB as the data URI of a JPEG, for the `src` of an `img`."""
    return jpeg_uri(jpeg(rgb))


def jpeg(rgb: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file: what to keep of a picture until the page is made."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def jpeg_uri(data: bytes) -> str:
    """The bytes of a JPEG file as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """0.727 as "72.7", without the sign: it stands in the table's heading."""
    return number(None if fraction is None else 100 * fraction, decimals)


def number(value: float | None, decimals: int = 1) -> str:
    """A value with so many decimals; a dash for None and nan."""
    return _MISSING if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def count(value: int | None) -> str:
    """An integer in groups of three digits."""
    return _MISSING if value is None else f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")
