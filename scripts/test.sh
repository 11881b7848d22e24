#!/usr/bin/env bash
# Check the workspace: scripts/test.sh [lint] [unit [PACKAGE ...]] [system]
#
# Runs every step that is asked for, also after a failing one, and ends with the number of tests that passed and failed.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "${BASH_SOURCE[0]%/*}/common.sh"

RESULTS=$ROOT/build/test_results
# Two tests run at a time, and each is a program of one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

title() { printf '\n== %s\n' "$*"; }

lint() {
  local failed=0
  cd "$ROOT"
  title "ruff"
  ./run --no-build ruff check --output-format concise . || failed=1
  ./run --no-build ruff format --check . || failed=1
  title "mypy"
  ./run --no-build mypy || failed=1
  title "shellcheck"
  ./run --no-build shellcheck --exclude=SC1091 run .ci/run scripts/*.sh && printf 'All checks passed!\n' || failed=1
  return $failed
}

unit() { # [PACKAGE ...]
  local select=()
  (($# == 0)) || select=(--packages-select "$@")
  cd "$ROOT"
  title "unit tests"
  ./run colcon --log-level error test --base-paths src --test-result-base "$RESULTS" --parallel-workers 2 \
    --event-handlers console_cohesion+ console_direct- desktop_notification- status- \
    --return-code-on-test-failure "${select[@]}"
}

system() {
  cd "$ROOT"
  title "system tests"
  # Most of their time is spent waiting for graphs that run in real time.
  ./run python -m pytest tests --numprocesses 2 --dist worksteal --junit-xml "$RESULTS/system/pytest.xml" -o junit_suite_name=system || {
    local status=$?
    ((status == 5)) || return $status
  }
}

steps=() packages=()
for argument in "$@"; do
  case $argument in
  -h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  lint | unit | system) steps+=("$argument") ;;
  *) packages+=("$argument") ;;
  esac
done
for package in "${packages[@]}"; do
  [[ -e $ROOT/src/$package/package.xml ]] || die "no such package or step: $package"
done
((${#steps[@]})) || steps=(lint unit system)

rm -rf "$RESULTS"
failed=()
for step in "${steps[@]}"; do
  arguments=()
  [[ $step != unit ]] || arguments=("${packages[@]}")
  # A step fails as a whole; what it says stands above.
  set +e
  (
    set -e
    "$step" "${arguments[@]}"
  )
  status=$?
  set -e
  ((status == 0)) || failed+=("$step")
done

summary=0
if [[ " ${steps[*]} " =~ \ (unit|system)\  ]]; then
  title "result"
  ((${#failed[@]} == 0)) || printf 'failed: %s\n' "${failed[*]}"
  "$VENV/bin/python" "$ROOT/scripts/test_summary.py" "$RESULTS" || summary=1
elif ((${#failed[@]})); then
  printf '\nfailed: %s\n' "${failed[*]}"
fi
((${#failed[@]} == 0 && summary == 0))
