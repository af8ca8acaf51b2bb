#!/bin/sh
# Usage: install.sh <SCRIPT
exec sh -s
