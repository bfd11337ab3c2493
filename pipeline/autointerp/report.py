"""A run's report on disk: Markdown, one HTML page, and the same as JSON; each written whole."""

import os
from pathlib import Path

from pipeline.autointerp.report_html import as_html
from pipeline.autointerp.report_markdown import as_markdown
from pipeline.autointerp.results import RunResults


def write_report(folder: Path, results: RunResults) -> None:
    """Write report.md, report.html and report.json into a folder; older ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.json": results.model_dump_json(indent=1) + "\n",
        "report.md": as_markdown(results),
        "report.html": as_html(results),
    }
    for name, text in texts.items():
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
