#!/bin/sh
# Usage: runtime.sh
#
# Install a TensorFlow Lite runtime and NumPy for edgeprune's harness into ~/.edgeprune, a virtual
# environment of its own: the system's Python is left alone. May be run again at any time.
# `edgeprune bench --provision` sends this script to the board.
set -eu
folder=${EDGEPRUNE_RUNTIME:-$HOME/.edgeprune}

for python in python3.13 python3.12 python3.11 python3.10 python3 python3.9; do
    if "$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 14))' 2>/dev/null; then
        break
    fi
    python=
done
if [ -z "$python" ]; then
    echo "no Python 3.9 to 3.13: sudo apt install python3" >&2
    exit 1
fi
if [ ! -x "$folder/bin/python" ]; then
    if ! "$python" -m venv "$folder" 2>/dev/null; then
        rm -rf "$folder"
        echo "Python has no venv: sudo apt install python3-venv" >&2
        exit 1
    fi
fi

# Which wheels exist: devices/boards/README.md. 32-bit Arm has the predecessor only.
case $("$folder/bin/python" -c 'import platform, sys; print(platform.machine(), sys.maxsize > 2**32)') in
*True) set -- ai-edge-litert numpy ;;
*) set -- tflite-runtime "numpy<2" ;;
esac
if ! "$folder/bin/python" -c 'import numpy
try: import ai_edge_litert.interpreter
except ImportError: import tflite_runtime.interpreter' 2>/dev/null; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$@"
fi
"$folder/bin/python" -c 'import sys; print("ready: Python", sys.version.split()[0])'
