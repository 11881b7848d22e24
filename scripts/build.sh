#!/usr/bin/env bash
# Build the workspace with colcon: scripts/build.sh
#
# Prepares the environment first. Builds only the packages whose definition changed since their last successful build.
set -euo pipefail
source "${BASH_SOURCE[0]%/*}/common.sh"

help_or_nothing "$@"

resumable
BUILD=$ROOT/build INSTALL=$ROOT/install

package_key() { # PACKAGE
  {
    cat "$STATE/ready" "$ROOT/colcon.meta"
    build_inputs "$ROOT/src/$1"
    [[ $1 != fosp_bringup ]] || build_inputs "$ROOT/launch"
  } | sha256sum
}

# Packages to build now: those whose stamp is missing or old.
select_packages() {
  local folder package
  CHANGED=()
  for folder in "$ROOT"/src/*/package.xml; do
    folder=${folder%/*}
    package=${folder##*/}
    if [[ ! -r $BUILD/$package/.ready || ! -d $INSTALL/$package || $(<"$BUILD/$package/.ready") != "$(package_key "$package")" ]]; then
      CHANGED+=("$package")
    fi
  done
}

forget_removed() {
  local folder
  for folder in "$INSTALL"/*/; do
    folder=${folder%/}
    [[ -e $ROOT/src/${folder##*/}/package.xml ]] || rm -rf "$folder" "${BUILD:?}/${folder##*/}"
  done
}

compile() {
  # shellcheck disable=SC1091
  source "$STATE/environment.sh"
  cd "$ROOT"
  MAKEFLAGS=-j$(nproc) colcon --log-level error build --base-paths src --symlink-install --parallel-workers "$(nproc)" \
    --event-handlers console_cohesion+ console_direct- desktop_notification- status- \
    --packages-select "${CHANGED[@]}" --cmake-args -DPython3_EXECUTABLE="$VENV/bin/python"
}

record() {
  local package
  # shellcheck disable=SC1091
  source "$STATE/environment.sh"
  python "$ROOT/scripts/environment_tools.py" workspace "$INSTALL" >"$INSTALL/.environment.sh.new"
  mv "$INSTALL/.environment.sh.new" "$INSTALL/.environment.sh"
  for package in "${CHANGED[@]}"; do
    package_key "$package" >"$BUILD/$package/.ready"
  done
  build_key >"$INSTALL/.ready.new"
  mv "$INSTALL/.ready.new" "$INSTALL/.ready"
}

build() {
  local source="$ROS_SOURCE $VENV"
  # A build made with another ROS 2 (or moved here) keeps paths of that one.
  if [[ -e $BUILD && $(cat "$BUILD/.source" 2>/dev/null) != "$source" ]]; then
    rm -rf "$BUILD" "$INSTALL"
  fi
  mkdir -p "$BUILD" "$INSTALL"
  touch "$BUILD/COLCON_IGNORE"
  printf '%s\n' "$source" >"$BUILD/.source"
  forget_removed
  select_packages
  if ((${#CHANGED[@]})); then
    LOG_LINES=40 stage "Building ${#CHANGED[@]} packages" compile
  fi
  stage "Recording the workspace" record
}

environment_ready || "$ROOT/scripts/environment.sh"
if ! build_ready; then
  lock "$ROOT/src" "The build"
  build_ready || build
fi
