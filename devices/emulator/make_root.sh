#!/bin/sh
# Usage: make_root.sh FOLDER [PIP]
#
# Make an arm64 user space with Python, NumPy and LiteRT in FOLDER, from the packages of the
# machine's own Debian sources, without root rights and without chroot; and the plugin that counts
# instructions, if there is a C compiler. PIP is a pip (default: python3 -m pip).
#
# Needs apt-get, dpkg-deb and pip; to use it, qemu-aarch64 (Debian: qemu-user).
set -eu
folder=${1:?"Usage: make_root.sh FOLDER [PIP]"}
pip=${2:-python3 -m pip}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$(dirname "$folder")"
folder=$(cd "$(dirname "$folder")" && pwd)/$(basename "$folder")

if [ -f "$folder/.complete" ]; then
    echo "$folder is complete"
    exit 0
fi
for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "make_root.sh needs $tool (Debian, Ubuntu)" >&2; exit 1; }
done

scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM HUP
apt=$scratch/apt
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$scratch/system"
: >"$apt/status"

run_apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
        -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o Acquire::Languages=none -o Debug::NoLocking=true -o APT::Sandbox::User= "$@"
}

echo "package lists for arm64"
run_apt update
python=$(apt-cache -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
    -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
    depends python3-minimal | sed -n 's/^ *PreDepends: \(python3\.[0-9]*\)-minimal$/\1/p' | head -n 1)
[ -n "$python" ] || { echo "no arm64 Python among the packages" >&2; exit 1; }
echo "$python and its libraries"
run_apt install --download-only --yes --no-install-recommends \
    python3-minimal "$python" "lib$python-stdlib" libstdc++6 libgcc-s1 >/dev/null
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$scratch/system"
done

version=${python#python}
echo "LiteRT and NumPy for $python"
# shellcheck disable=SC2086 # pip may be several words
$pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: \
    --target "$scratch/system/opt/runtime" \
    --python-version "$version" --implementation cp --abi "cp$(echo "$version" | tr -d .)" \
    --abi abi3 --abi none \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    ai-edge-litert numpy
echo "/usr/bin/$python" >"$scratch/system/.python"

# XNNPACK turns itself off when it cannot count the cores.
mkdir -p "$scratch/system/sys/devices/system/cpu" "$scratch/system/proc"
echo 0-1 >"$scratch/system/sys/devices/system/cpu/possible"
echo 0-1 >"$scratch/system/sys/devices/system/cpu/present"

if command -v cc >/dev/null; then
    cc -O2 -shared -fPIC -Wall "$here/instruction_counter.c" -o "$scratch/system/.instructions.so"
else
    echo "no C compiler: instructions will not be counted"
fi
touch "$scratch/system/.complete"
rm -rf "$folder"
mv "$scratch/system" "$folder"
echo "made $folder"
