#!/bin/sh
# Usage: start.sh FOLDER COMMAND...
# Start the command so that it outlives this line; what it says goes into files of the folder.
cd "$1" || exit 1
shift
[ ! -f process ] || exit 0 # asked again after the line dropped
touch lease
(
    trap '' HUP
    "$@" </dev/null >answer.json 2>progress &
    echo $! >process
    wait $!
    echo $? >ended
    mv ended status
) </dev/null >/dev/null 2>&1 &
