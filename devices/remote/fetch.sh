#!/bin/sh
# Usage: fetch.sh FOLDER
exec cat "$1/answer.json"
