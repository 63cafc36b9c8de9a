"""An executed notebook as a page to read: one HTML file with all in it, in which nothing runs."""

import nbformat

_STYLE = """
body { font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif; color: #1b2430;
       max-width: 980px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 26px; } img { max-width: 100%; }
pre { overflow: auto; background: #f3f5f8; padding: 8px 12px; border-radius: 8px; font-size: 13px; }
table { border-collapse: collapse; font-size: 13.5px; margin: 8px 0 16px; }
td, th { padding: 4px 12px 4px 0; border-bottom: 1px solid #e6eaf0; text-align: right; }
"""


def readable(body: bytes, *, code: bool = True) -> str:
    """The HTML of an executed notebook.

    code: whether the cells' code is shown; a report for people who do not read it leaves it out.
    """
    # imported when the first one is asked for: it takes a second
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=not code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        sanitize_html=True,
    )
    notebook = nbformat.reads(body.decode("utf-8"), as_version=4)
    if not code:
        # what the runner reads is not for people
        notebook.cells = [
            cell for cell in notebook.cells if "machine-only" not in cell.metadata.get("tags", ())
        ]
    made, _ = exporter.from_notebook_node(notebook)
    title = next(
        (line[2:] for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# ")),
        "",
    )
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{_plain(title)}</title>"
    return (
        f"<!doctype html><html lang='en'><head>{head}<style>{_STYLE}</style></head><body>{made}</body></html>"
    )


def _plain(text: str) -> str:
    return "".join(character for character in text if character not in "<>&'\"")
