#!/bin/sh
# Usage: prepare.sh PARENT LEASE_SECONDS
# Make a folder for one run and print it. A guard removes it, and ends what runs there, when nobody
# has touched its file `lease` for LEASE_SECONDS: a host that is gone leaves nothing behind.
# The guard counts for itself: the clock of a board without a battery may jump by years.
parent=$1
lease=$2
mkdir -p "$parent" && folder=$(mktemp -d "$parent/edgeprune-XXXXXX") && touch "$folder/lease" || exit 1
interval=$((lease / 10))
[ "$interval" -ge 1 ] || interval=1
(
    trap '' HUP
    seen=
    missed=0
    while [ -d "$folder" ]; do
        sleep "$interval"
        now=$(stat -c %y "$folder/lease" 2>/dev/null)
        if [ "$now" != "$seen" ]; then
            seen=$now
            missed=0
            continue
        fi
        missed=$((missed + interval))
        if [ "$missed" -ge "$lease" ]; then
            if [ -s "$folder/process" ]; then
                kill "$(cat "$folder/process")" 2>/dev/null
                sleep 2
                kill -9 "$(cat "$folder/process")" 2>/dev/null
            fi
            rm -rf "$folder"
        fi
    done
) </dev/null >/dev/null 2>&1 &
echo "$folder"
