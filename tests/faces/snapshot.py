"""The definitions a host reads, as kept in `definitions.json`. `python -m tests.faces.snapshot` writes them anew."""

import json
from pathlib import Path
from typing import Any

from saeinterp_mcp.faces.arguments import entries

SNAPSHOT = Path(__file__).with_name("definitions.json")


def definitions() -> list[dict[str, Any]]:
    """Name, description and input schema of every tool, `weapon_sweep` too."""
    return [{"name": e.name, "description": e.description, "inputSchema": e.input_schema} for e in entries()]


def n_tokens(value: Any) -> float:
    """Tokens by our rule of thumb: UTF-8 bytes / 3.5."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")) / 3.5


def as_json() -> str:
    """One tool after the other, in the order of the list."""
    return json.dumps(definitions(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(as_json(), encoding="utf-8")
    print(f"{SNAPSHOT}: {len(definitions())} tools, {n_tokens(definitions()):.0f} tokens")
