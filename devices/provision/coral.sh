#!/bin/sh
# Usage: sudo coral.sh [libedgetpu1-std_VERSION_ARCHITECTURE.deb]
#
# Set a machine with an Edge TPU up: its library, from the package that is given where there is none
# yet; the rule that lets users open the device; and, for the user who called sudo, the runtime that
# the library fits. May be run again at any time: what is as it should be is left alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${EDGEPRUNE_ROOT:-} # tests give a copy of the files
if [ $# -gt 1 ]; then
    echo "Usage: sudo coral.sh [libedgetpu1-std_VERSION_ARCHITECTURE.deb]" >&2
    exit 2
fi
if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "run it with sudo: the library and the rule belong to root" >&2
    exit 1
fi

has_library() {
    for library in "$root"/usr/lib/*/libedgetpu.so.1 "$root"/usr/lib/libedgetpu.so.1; do
        [ ! -e "$library" ] || return 0
    done
    return 1
}
if ! has_library; then
    if [ $# -eq 0 ]; then
        echo "no libedgetpu: download the package libedgetpu1-std for this system from" >&2
        echo "github.com/feranick/libedgetpu/releases, then: sudo coral.sh PACKAGE.deb" >&2
        exit 1
    fi
    apt-get install --yes "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
fi

rule=$root/etc/udev/rules.d/71-edgetpu.rules
new='SUBSYSTEM=="usb", ATTRS{idVendor}=="1a6e", ATTRS{idProduct}=="089a", MODE="0660", GROUP="plugdev"
SUBSYSTEM=="usb", ATTRS{idVendor}=="18d1", ATTRS{idProduct}=="9302", MODE="0660", GROUP="plugdev"
SUBSYSTEM=="apex", MODE="0660", GROUP="plugdev"'
user=${SUDO_USER:-$(id -un)}
if [ "$(cat "$rule" 2>/dev/null)" != "$new" ]; then
    mkdir -p "$(dirname "$rule")"
    printf '%s\n' "$new" >"$rule"
    if [ -z "$root" ]; then
        usermod --append --groups plugdev "$user"
        udevadm control --reload-rules
        udevadm trigger
    fi
    echo "rule: the group plugdev may open the Edge TPU; plug it in again, and log in again"
fi

if [ -z "$root" ] && [ "$user" != root ]; then
    su "$user" -c "sh '$here/runtime.sh' tflite-runtime"
else
    sh "$here/runtime.sh" tflite-runtime
fi
