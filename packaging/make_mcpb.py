"""Pack the server as an MCP bundle, which Claude Desktop installs by a double click.

    python packaging/make_mcpb.py saeinterp.mcpb

The bundle holds what a wheel is built from, as pyproject.toml lists it, and `manifest.json`; the host's uv installs
the dependencies. Same files, same bytes.
"""

import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EPOCH = (1980, 1, 1, 0, 0, 0)
NOT_SHIPPED = {"__pycache__"}


def contents() -> Iterator[Path]:
    """The files of the bundle, but for the manifest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
    yield from (ROOT / name for name in files)
    for folder in [*wheel["packages"], *wheel["force-include"]]:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and not NOT_SHIPPED & set(path.parts):
                yield path


def pack(out: Path) -> None:
    """Write the bundle, whole or not at all."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in [ROOT / "packaging" / "manifest.json", *contents()]:
            name = path.name if path.parent.name == "packaging" else path.relative_to(ROOT).as_posix()
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    unfinished.replace(out)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
    print(f"{sys.argv[1]} is written")
