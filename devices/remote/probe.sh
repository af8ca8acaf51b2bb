#!/bin/sh
# Usage: probe.sh [PYTHON]
# Print the architecture, then one line per Python that is there: path, version, NumPy, runtime.
uname -m
program='
import sys
sys.path[:] = [place for place in sys.path if place]  # not the working folder
def has(name):
    try:
        from importlib.util import find_spec
        return find_spec(name) is not None
    except Exception:
        return False
found = [name for name in ("ai_edge_litert", "tflite_runtime") if has(name)]
print("\t".join([sys.executable, "%d.%d.%d" % sys.version_info[:3],
                 "numpy" if has("numpy") else "-", found[0] if found else "-"]))
'
[ $# -gt 0 ] || set -- "$HOME/.edgeprune/bin/python" python3
for python in "$@"; do
    command -v "$python" >/dev/null 2>&1 || continue
    "$python" -E -c "$program" 2>/dev/null
done
exit 0
