"""Self-contained HTML pages, from the templates beside this module."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """All `values` are text: markup in them is escaped."""
    environment = Environment(
        loader=PackageLoader("asr_fed.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template).render(**values)
