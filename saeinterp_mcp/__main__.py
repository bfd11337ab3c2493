"""`python -m saeinterp_mcp` and `saeinterp` start the command-line face."""

from saeinterp_mcp.faces.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
