# shellcheck shell=bash
# Sourced by run, environment.sh, build.sh and test.sh: where things are, what is up to date, how a stage is shown.

ROOT=$(cd -- "${BASH_SOURCE[0]%/*}/.." && pwd -P)
# Raise it when an environment made by an older script has to be checked again.
ENVIRONMENT_VERSION=1

# "wheels", or the distribution of a sourced ROS 2 installation that has rclpy. Needs no process, since `run` asks every time.
ros_source() {
  local prefix prefixes
  ROS_SOURCE=wheels
  [[ -n ${ROS_DISTRO:-} ]] || return 0
  IFS=: read -ra prefixes <<<"${AMENT_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    if [[ $prefix != "$ROOT"/* && -e $prefix/share/ament_index/resource_index/packages/rclpy ]]; then
      ROS_SOURCE=$ROS_DISTRO
    fi
  done
}

ros_source
VENV=$ROOT/.venv
[[ $ROS_SOURCE == wheels ]] || VENV=$ROOT/.venv-$ROS_SOURCE
STATE=$VENV/.state
LOG=$ROOT/log/${0##*/}.log

# What the environment was made from; compared with the stamp of the last success.
environment_key() {
  local version=''
  [[ -r $VENV/pyvenv.cfg ]] && version=$(grep -m1 '^version' "$VENV/pyvenv.cfg" || true)
  printf '%s ' "$ENVIRONMENT_VERSION" "$ROS_SOURCE" "$VENV" "$version"
  cat "$ROOT"/requirements/*.txt | sha256sum
}

environment_ready() {
  [[ -x $VENV/bin/python && -r $STATE/ready && -r $STATE/environment.sh ]] && [[ $(<"$STATE/ready") == "$(environment_key)" ]]
}

# Files that decide what a build does. Python modules are not among them: the install space links to them.
# Data files count by name, since they are linked one by one.
build_inputs() { # FOLDER...
  find "$@" -regextype posix-extended \( -name __pycache__ -o -name test -o -name '.*' \) -prune -o -type f \
    -regex '.*/(package\.xml|setup\.(py|cfg)|CMakeLists\.txt|.*\.(msg|srv|action))' -print0 | sort -z | xargs -0 -r sha256sum
  find "$@" \( -name __pycache__ -o -name test -o -name '.*' \) -prune -o -type f ! -name '*.py' ! -name '*~' -print | sort
}

build_key() {
  {
    cat "$STATE/ready" "$ROOT/colcon.meta"
    build_inputs "$ROOT/src" "$ROOT/launch"
  } | sha256sum
}

build_ready() {
  [[ -r $ROOT/install/.ready && -r $ROOT/install/.environment.sh ]] && [[ $(<"$ROOT/install/.ready") == "$(build_key)" ]]
}

die() {
  printf '%s\n' "$@" >&2
  exit 1
}

# Hold a lock until this shell ends; LABEL says what somebody else is doing meanwhile. A folder serves as the lock file.
lock() { # FOLDER LABEL
  exec 9<"$1"
  if ! flock --nonblock 9; then
    printf '%s is under way in another shell, waiting for it\n' "$2" >&2
    flock 9
  fi
}

tick() { # SHELL TEXT: the running time behind the text, while that shell lives
  local begin=$SECONDS
  while sleep 1 && kill -0 "$1" 2>/dev/null; do
    printf '\r%-58s %5d s' "$2" $((SECONDS - begin)) >&2
  done
}

# Run a command with its output in the log; one line says what, and how long it took. A failure shows the log's end and exits.
stage() { # TEXT COMMAND...
  local text=$1 begin=${EPOCHREALTIME/[.,]/} ticker='' status tenths
  shift
  mkdir -p "${LOG%/*}"
  printf '%-58s ' "$text" >&2
  printf '\n== %s\n' "$text" >>"$LOG"
  if [[ -t 2 ]]; then
    tick $$ "$text" 9<&- &
    ticker=$!
  fi
  set +e
  (
    set -e
    "$@"
  ) >>"$LOG" 2>&1 </dev/null
  status=$?
  set -e
  if [[ -n $ticker ]]; then
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    printf '\r%-58s ' "$text" >&2
  fi
  tenths=$(((${EPOCHREALTIME/[.,]/} - begin) / 100000))
  if ((status == 0)); then
    printf '%5d.%d s\n' $((tenths / 10)) $((tenths % 10)) >&2
    return
  fi
  printf 'failed after %d.%d s\n' $((tenths / 10)) $((tenths % 10)) >&2
  tail -n "${LOG_LINES:-15}" "$LOG" | sed 's/^/    /' >&2
  die "The whole log: $LOG"
}

# Interrupted work is taken up by the next start; say so.
resumable() {
  trap 'printf "\ninterrupted; the same command goes on from here\n" >&2; exit 130' INT
  trap 'exit 143' TERM
}

# For scripts without arguments: --help shows the comment at the script's head, anything else is refused.
help_or_nothing() { # [ARGUMENT]
  case ${1:-} in
  "") ;;
  -h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
  *) die "unknown argument: $1 (see --help)" ;;
  esac
}
