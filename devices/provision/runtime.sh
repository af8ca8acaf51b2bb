#!/bin/sh
# Usage: runtime.sh [ai-edge-litert | tflite-runtime]
#
# Install a TensorFlow Lite runtime and NumPy for edgeprune's harness into ~/.edgeprune, a virtual
# environment of its own: the system's Python is left alone. May be run again at any time.
# `edgeprune bench --provision` sends this script to the board.
set -eu
folder=${EDGEPRUNE_RUNTIME:-$HOME/.edgeprune}

# Which wheels exist: docs/boards.md. 32-bit Arm has the predecessor only.
bits=${EDGEPRUNE_BITS:-$(getconf LONG_BIT)} # tests say which
wanted=${1:-}
[ -n "$wanted" ] || if [ "$bits" = 64 ]; then wanted=ai-edge-litert; else wanted=tflite-runtime; fi
case $wanted in
ai-edge-litert)
    newest=14 module=ai_edge_litert
    set -- ai-edge-litert numpy
    ;;
tflite-runtime)
    newest=11 module=tflite_runtime
    set -- tflite-runtime "numpy<2"
    ;;
*)
    echo "Usage: runtime.sh [ai-edge-litert | tflite-runtime]" >&2
    exit 2
    ;;
esac

for python in python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3; do
    if "$python" -c "import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; then
        break
    fi
    python=
done
if [ -z "$python" ]; then
    advice="sudo apt install python3"
    if [ "$newest" -lt 14 ] && python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        advice="there is $(python3 --version), for which it has no wheels: take Raspberry Pi OS Bookworm"
        [ "$bits" = 64 ] || advice="$advice, or the 64-bit one"
    fi
    echo "no Python 3.9 to 3.$newest for $wanted: $advice" >&2
    exit 1
fi
if [ ! -x "$folder/bin/python" ]; then
    if ! "$python" -m venv "$folder" 2>/dev/null; then
        rm -rf "$folder"
        echo "Python has no venv: sudo apt install python3-venv" >&2
        exit 1
    fi
fi

pip() {
    "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}
if ! "$folder/bin/python" -c "import numpy, $module.interpreter" 2>/dev/null; then
    pip install --only-binary=:all: "$@"
fi
# The harness takes ai-edge-litert first, which is not what libedgetpu fits.
if [ "$wanted" = tflite-runtime ] && "$folder/bin/python" -c 'import ai_edge_litert' 2>/dev/null; then
    pip uninstall --yes ai-edge-litert
fi
"$folder/bin/python" -c 'import sys; print("ready: Python", sys.version.split()[0])'
