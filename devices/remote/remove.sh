#!/bin/sh
# Usage: remove.sh FOLDER
# Only what prepare.sh made is removed.
case $1 in
*/edgeprune-??????) ;;
*) exit 1 ;;
esac
if [ -s "$1/process" ]; then
    kill -9 "$(cat "$1/process")" 2>/dev/null
fi
rm -rf "$1"
