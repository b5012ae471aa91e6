#!/usr/bin/env bash
# install_python.sh VENV REQUIREMENTS [TORCH_INDEX]: the Python packages that a ROS distribution does not have, in an
# environment that sees the distribution's. TORCH_INDEX: torch alone comes from there, first; the rest from the usual one.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: install_python.sh VENV REQUIREMENTS [TORCH_INDEX]" >&2
  exit 2
fi
venv=$1 requirements=$2 torch_index=${3:-}
if [ ! -f "$requirements" ]; then
  echo "$requirements: no such file; it is constraints/distribution.txt of the repository" >&2
  exit 2
fi

python3 -m venv --system-site-packages "$venv"
if [ -n "$torch_index" ]; then
  "$venv/bin/pip" install --no-cache-dir --index-url "$torch_index" "$(grep '^torch==' "$requirements")"
fi
"$venv/bin/pip" install --no-cache-dir -r "$requirements"
