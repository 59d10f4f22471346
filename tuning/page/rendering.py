"""The page as one HTML file: text, data, style, scripts and the charts' library in it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..comparing.chart import vl_convert
from ..environment import pip_install
from ..errors import EnvironmentMismatchError
from .charts import CONFIG, charts
from .views import ALL

_FOLDER = Path(__file__).parent
_FIRST = "|".join([ALL] * 3)


def render(data: dict[str, Any], switches: dict[str, dict[str, str]]) -> str:
    """The page.

    Parameters
    ----------
    data
        From :func:`~.data.page_data`.
    switches
        From :func:`~.views.options`.

    Raises
    ------
    EnvironmentMismatchError
        Without Jinja or vl-convert (extra ``report``).
    """
    try:
        import jinja2
    except ImportError:
        raise EnvironmentMismatchError(
            f"the page needs Jinja; {pip_install('prefilltune[report]')}"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html.jinja").render(
        data=data,
        first=_FIRST,
        switches=switches,
        style=_text("page.css"),
        script=_text("page.js"),
        library=library(),
        json={
            "data": as_json(data),
            "charts": as_json(charts()),
            "config": as_json(CONFIG),
        },
    )


def as_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return vl_convert().javascript_bundle().replace("</script", "<\\/script")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
