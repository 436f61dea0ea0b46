#!/usr/bin/env bash
# Print the path of a Python 3.12 or 3.11 that works, nothing where there is none.
for name in python3.12 python3.11 python3 python; do
    "${name}" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue
    command -v "${name}"
    exit
done
