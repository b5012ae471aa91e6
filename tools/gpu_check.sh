#!/usr/bin/env bash
# Everything that a CUDA card must prove, in at most 9 minutes, on a bare machine: Python 3.12 and the packages of
# `needed` with what they need; no ROS, no rosbags, no git.
#   OUT=FOLDER tools/gpu_check.sh [STEP...]     all steps, or those named; a step whose file is complete is left out
#   tools/gpu_check.sh stamp                    before the tree is copied to a machine without git: its commit
# The safest first; each step has its own limit and its own file in OUT (8 in all), written row by row, so that one
# that fails or hangs costs only itself. Call it again to go on. Ends with a table. Elsewhere, to rehearse:
#   GPU_CHECK_DEVICE=cpu GPU_CHECK_SHAPE=C GPU_CHECK_SPATIAL=60 GPU_CHECK_REPETITIONS=2 GPU_CHECK_PATIENCE=5 \
#     GPU_CHECK_SECONDS=3000 OUT=/tmp/out tools/gpu_check.sh
# PATIENCE multiplies each step's limit, SECONDS is that of all together, PYTHON names the interpreter.
set -u
cd "$(dirname "$0")/.."
needed="torch transformers numpy scipy safetensors sentencepiece opencv-python-headless pillow pytest"
python=${GPU_CHECK_PYTHON:-python3}
device=${GPU_CHECK_DEVICE:-cuda}
shape=${GPU_CHECK_SHAPE:-7B}
spatial=${GPU_CHECK_SPATIAL:-2560}
seconds_in_all=${GPU_CHECK_SECONDS:-530}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

if [ "${1:-}" = stamp ]; then exec "$python" tools/write_stamp.py; fi
: "${OUT:?name the folder for the results: OUT=FOLDER tools/gpu_check.sh}"
mkdir -p "$OUT"
if [ -e .git ]; then "$python" tools/write_stamp.py; fi
# opencv-python and the like hold the same modules: what counts is what can be imported.
modules=$(echo "$needed" | sed 's/opencv-python-headless/cv2/; s/pillow/PIL/')
find_absent='import importlib.util, sys; print(*(m for m in sys.argv[1:] if not importlib.util.find_spec(m)))'
# shellcheck disable=SC2086  # words
absent=$("$python" -c "$find_absent" $modules)
if [ -n "$absent" ]; then
  echo "not installed here: $absent. Steps that need it will say so and cost only themselves: pip install $needed"
fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
wanted=" $* "

# bench SUITE REPETITIONS [MORE...]
bench() {
  local suite=$1 repetitions=${GPU_CHECK_REPETITIONS:-$2}
  shift 2
  "$python" -m ada3d_ros bench --suite "$suite" --shape "$shape" --spatial "$spatial" --device "$device" \
    --repetitions "$repetitions" --json "$OUT/${suite//-/_}.json" "$@"
}

# The tests marked gpu, and nothing else: other modules need packages that a bare machine lacks.
gpu_tests() {
  local files
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' test | sort)
  "$python" -m pytest -q -rs -m gpu -p no:cacheprovider "${files[@]}" 2>&1 | tee "$OUT/tests.txt"
  local status=${PIPESTATUS[0]}
  echo "exit status $status" >>"$OUT/tests.txt"
  return "$status"
}

is_complete() {  # STEP
  if [ "$1" = tests ]; then  # on a CPU all of them are skipped: status 5
    grep -qsE "^exit status ($([ "$device" = cpu ] && echo '0|5' || echo 0))\$" "$OUT/tests.txt"
    return
  fi
  grep -qs '^ "complete": true' "$OUT/${1//-/_}.json"
}

# step NAME LIMIT_S COMMAND...: in a process group of its own, so that what it started ends with it.
step() {
  local name=$1 limit=$(($2 * ${GPU_CHECK_PATIENCE:-1})) began=$SECONDS status
  shift 2
  if [ "$wanted" != "  " ] && [[ $wanted != *" $name "* ]]; then return; fi
  if is_complete "$name"; then echo "== $name: done before"; return; fi
  local left=$((seconds_in_all - SECONDS))
  if [ "$left" -lt 5 ]; then echo "== $name: no time left"; return; fi
  if [ "$left" -lt "$limit" ]; then limit=$left; fi
  set -m
  ("$@") >"$logs/$name" 2>&1 &
  local job=$!
  set +m
  while kill -0 "$job" 2>/dev/null && [ $((SECONDS - began)) -lt "$limit" ]; do sleep 0.2; done
  if kill -0 "$job" 2>/dev/null; then
    kill -KILL -- -"$job" 2>/dev/null
    echo "== $name: stopped after its $limit s"
  fi
  wait "$job" 2>/dev/null
  status=$?
  echo "== $name: exit status $status, $((SECONDS - began)) s"
  tail -n 30 "$logs/$name"
}
trap 'kill -KILL -- -"$(jobs -p)" 2>/dev/null; exit 143' TERM INT

if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=name,clocks.sm,clocks.mem,power.draw,driver_version --format=csv
fi
step device 70 bench device 10
step tests 80 gpu_tests
step same 60 bench same 6
step default 160 bench default 8
step scene-update 50 bench scene-update 12
step decode 120 bench decode 6 --keep-ratio 0.37
step memory 60 bench memory 5
step batch 45 bench batch 5

echo
"$python" tools/gpu_table.py "$OUT"
