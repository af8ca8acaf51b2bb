#!/bin/sh
# Usage: stop.sh FOLDER
[ ! -s "$1/process" ] || kill "$(cat "$1/process")" 2>/dev/null
exit 0
