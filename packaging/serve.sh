#!/bin/sh
# Starts the server for Claude Code from this folder (`.mcp.json`): finds the store and the program, and says what
# is missing. stdout is the protocol, so every message goes to stderr.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

refuse() {
    echo "saeinterp: $1" >&2
    exit 2
}

# the store: the plugin's own setting, then SAEINTERP_STORE (which the server reads itself), then what `make demo` made
store=${SAEINTERP_PLUGIN_STORE:-}
case $store in
    '${'*) store= ;; # a host that has no such setting leaves its name
esac
if [ -z "$store" ] && [ -z "${SAEINTERP_STORE:-}" ]; then
    for store in "${CLAUDE_PROJECT_DIR:-.}/demo-store" "$root/demo-store" ''; do
        if [ -f "$store/manifest.json" ]; then break; fi
    done
    [ -n "$store" ] || refuse "no store. Set the plugin's option 'store', or SAEINTERP_STORE, or run 'make demo' in $root"
fi

# the program: of this very folder where it is installed there, so that tools and skills are of one version
for program in "$root/.venv-demo/bin/saeinterp" "$root/.venv/bin/saeinterp" "$(command -v saeinterp || true)"; do
    if [ -x "$program" ]; then exec "$program" serve ${store:+--store "$store"}; fi
done
if command -v uvx >/dev/null; then exec uvx --quiet --from "$root" saeinterp serve ${store:+--store "$store"}; fi
refuse "the program is not installed. Run 'make demo' in $root, or 'pip install $root', or install uv"
