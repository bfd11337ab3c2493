"""`python -m saeinterp_mcp` and `saeinterp` start the command-line face."""

import gc

gc.disable()  # loading makes many objects and no garbage: to look for it meanwhile is a sixth of the start
from saeinterp_mcp.faces.cli import main  # noqa: E402

gc.enable()

__all__ = ["main"]

if __name__ == "__main__":
    main()
