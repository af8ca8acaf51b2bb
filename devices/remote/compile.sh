#!/bin/sh
# Usage: compile.sh <ARCHIVE >ARCHIVE
# Compile the models of an archive for the Edge TPU, together, and answer with what was made.
command -v edgetpu_compiler >/dev/null || exit 3
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$folder/in" "$folder/out" && cd "$folder/in" && tar -xf - || exit 1
edgetpu_compiler -s -o ../out ./*.tflite >../out/output 2>&1 </dev/null
echo $? >../out/status
cd ../out && tar -cf - .
