#!/bin/sh
# Usage: unpack.sh FOLDER <ARCHIVE
cd "$1" && touch lease && exec tar -xf -
