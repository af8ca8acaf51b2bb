#!/bin/sh
# Usage: space.sh FOLDER
# Print how many kilobytes are left.
df -Pk "$1" | awk 'NR == 2 { print $4 }'
