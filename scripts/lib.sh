# shellcheck shell=bash
# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
#
# Functions shared by scripts/demo, scripts/test and the others: find a Python, create .venv, install
# into it, build. To be sourced, not run.
#
# Variables a caller may set:
#   PYTHON       the interpreter to use (default: the first of PYTHON_VERSIONS that is installed)
#   VENV         the virtual environment (default: .venv)
#   ROS_WHEELS   jazzy (default) or kilted: which wheels of ROS 2 to install if no ROS 2 is sourced
#   LOCKED       1 (default): install the versions of scripts/requirements/locked, verified by hash;
#                0: install the newest versions that scripts/requirements/*.txt allow

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
REQUIREMENTS="$ROOT/scripts/requirements"
LOCKS="$REQUIREMENTS/locked"
LOCKED="${LOCKED:-1}"
# 3.11 comes first, because wheels of all packages, torch included, have been published for it the
# longest. Any of the four works.
PYTHON_VERSIONS=(3.11 3.12 3.13 3.10)
# Distributions of ROS 2 that are on PyPI, and the requirements file of each.
declare -A ROS_WHEELS_FILES=([jazzy]=ros.txt [kilted]=ros_kilted.txt)
ROS_WHEELS="${ROS_WHEELS:-jazzy}"
# The Python for which the Linux distribution builds its packages, including cv_bridge.
SYSTEM_PYTHON="${SYSTEM_PYTHON:-/usr/bin/python3}"
# Seconds to wait before each retry of a failed download.
RETRY_WAITS_S=(5 20 60)

# rclpy's wheels set this variable in the process that they restart. In a child process with another
# Python it prevents rclpy from loading.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

step_now=0
step_count=0

step() {  # step TEXT: announce the next step
  step_now=$((step_now + 1))
  printf '[%d/%d] %s\n' "$step_now" "$step_count" "$*"
}

show_help() {  # show_help ARGUMENT...: with -h or --help, print the header of the script and exit
  case " $* " in
    *' -h '* | *' --help '*)
      sed -n '/^# SPDX/d;/^# Copyright/d;/^#!/d;/^[^#]/q;s/^# \{0,1\}//p' "$0"
      exit 0 ;;
  esac
}

note() { printf '      %s\n' "$*"; }

die() {  # die ERROR FIX: print both, then exit with 1
  printf 'error: %s\n' "$1" >&2
  printf '  fix: %s\n' "$2" >&2
  exit 1
}

need_space() {  # need_space GB FOLDER: exit if less is free there; a full disk fails hundreds of tests
  local free
  free="$(df -Pk "$2" 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')" || return 0
  [[ $free -ge $1 ]] ||
    die "$2 has $free GB free, but $1 GB are needed" 'free disk space, or set VENV and TMPDIR to other folders'
}

# --- the interpreter ---------------------------------------------------------------------------

python_version() {  # python_version EXE: print "3.11", or nothing if it does not run
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

is_supported() {  # is_supported VERSION
  local version
  for version in "${PYTHON_VERSIONS[@]}"; do
    [[ $1 == "$version" ]] && return 0
  done
  return 1
}

candidates() {  # candidates VERSION: print executables that may be this version, best first
  type -ap "python$1" || true
  # pyenv's shims do not run versions that are not activated, so its folders are searched too.
  ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/"python$1" 2>/dev/null || true
  type -ap python3 || true
}

venv_fix() {  # venv_fix VERSION
  printf '%s' "sudo apt install python$1-venv   (Debian, Ubuntu), then run this again"
}

find_python() {  # print the interpreter to build .venv from
  local version exe without_venv=''
  if [[ -n ${PYTHON:-} ]]; then
    version="$(python_version "$PYTHON")"
    [[ -n $version ]] || die "PYTHON=$PYTHON does not run" 'give the path of a Python 3.10 to 3.13'
    is_supported "$version" || die "PYTHON=$PYTHON is Python $version; 3.10 to 3.13 are supported" \
      'set PYTHON to another one, or unset it to search for one'
    can_make_venv "$PYTHON" || die "$PYTHON cannot create a virtual environment" "$(venv_fix "$version")"
    type -P "$PYTHON"
    return
  fi
  for version in "${PYTHON_VERSIONS[@]}"; do
    while read -r exe; do
      [[ "$(python_version "$exe")" == "$version" ]] || continue
      if can_make_venv "$exe"; then printf '%s\n' "$exe"; return; fi
      without_venv="${without_venv:-$version}"
    done < <(candidates "$version")
  done
  [[ -z $without_venv ]] || die "Python $without_venv is installed, but its venv module is not" \
    "$(venv_fix "$without_venv")"
  die 'no Python 3.10, 3.11, 3.12 or 3.13 was found' \
    'sudo apt install python3 python3-venv   (or set PYTHON=/path/to/python3.12), then run this again'
}

# --- a sourced ROS 2 ---------------------------------------------------------------------------

ros_python() {  # print the Python of the sourced ROS, or fail
  local exe
  [[ -n ${ROS_DISTRO:-} ]] || return 1
  for exe in ${PYTHON:-python3 /usr/bin/python3}; do
    if "$exe" -c 'import rclpy' >/dev/null 2>&1; then type -P "$exe"; return 0; fi
  done
  return 1
}

keeps_numpy_1() {  # keeps_numpy_1 EXE: whether its apt packages (cv_bridge, OpenCV) need numpy 1
  "$1" -c 'import sys, numpy; sys.exit(not numpy.__version__.startswith("1."))' 2>/dev/null
}

# --- the virtual environment -------------------------------------------------------------------

venv_is_sound() {  # venv_is_sound VERSION FLAVOUR: whether $VENV is complete and of this Python
  [[ -f $VENV/.made ]] && [[ "$(cat "$VENV/.made")" == "$1 $2" ]] &&
    [[ "$(python_version "$VENV/bin/python")" == "$1" ]] &&
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1
}

make_venv() {  # make_venv EXE FLAVOUR [VENV OPTION...]
  local exe="$1" flavour="$2" version
  shift 2
  version="$(python_version "$exe")"
  if venv_is_sound "$version" "$flavour"; then
    note "$VENV exists (Python $version, $flavour)"
    constrain
    return
  fi
  if [[ -e $VENV ]]; then
    # Never delete a folder that is not a virtual environment.
    [[ -f $VENV/pyvenv.cfg || -f $VENV/.unfinished || -z "$(ls -A "$VENV")" ]] ||
      die "$VENV exists and is not a virtual environment" 'move it away, or set VENV to another folder'
    note "$VENV is incomplete or has another Python: creating it again"
    rm -rf "$VENV"
  fi
  note "creating $VENV with $exe (Python $version, $flavour)"
  mkdir -p "$VENV" && touch "$VENV/.unfinished"
  "$exe" -m venv "$@" "$VENV" || die "$exe -m venv failed" "$(venv_fix "$version")"
  modern_pip
  constrain
  printf '%s %s\n' "$version" "$flavour" >"$VENV/.made"
  rm "$VENV/.unfinished"
}

constrain() {  # keep later installs from upgrading setuptools, which torch requests and colcon cannot use
  grep '^setuptools' "$REQUIREMENTS/build.txt" >"$VENV/constraints.txt"
}

modern_pip() {  # old versions of pip lack current wheel tags, resolve slowly and have vulnerabilities
  local pip=("$VENV/bin/python" -m pip)
  # Installs setuptools too, which later builds from source use instead of downloading one.
  retry "${pip[@]}" install --quiet --disable-pip-version-check --require-hashes \
    -r "$LOCKS/pip.txt" && return
  "${pip[@]}" --version | awk '{ split($2, v, "."); exit !(v[1] >= 22) }' ||
    die "pip of $VENV is too old ($("${pip[@]}" --version)) and could not be upgraded" \
      "check the network, then: $VENV/bin/python -m pip install --upgrade pip"
}

retry() {  # retry COMMAND...: run a command; if it fails, repeat it after each of RETRY_WAITS_S
  local wait_s
  for wait_s in "${RETRY_WAITS_S[@]}"; do
    "$@" && return 0
    note "failed; trying again in $wait_s s (finished downloads are kept)"
    sleep "$wait_s"
  done
  "$@"
}

pip_install() {  # pip_install ARGUMENT...: prints progress; the whole output is in .venv/pip.log
  "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off --prefer-binary \
    "$@" | tee -a "$VENV/pip.log" |
    awk '/Downloading|Using cached|Processing/ {
      if (++n % 20 == 0) { print "      " n " packages fetched"; fflush() }
    }'
}

install() {  # install NAME FILE...: pip install -r each, unless NAME was installed from the same files
  local name="$1" stamp hash file arguments=()
  shift
  stamp="$VENV/.installed-$name"
  hash="$(cat "$@" "$VENV/constraints.txt" | sha256sum | cut -d' ' -f1)"
  if [[ -f $stamp && "$(cat "$stamp")" == "$hash" ]]; then
    note "$name: already installed"
    return
  fi
  for file in "$@"; do arguments+=(-r "$file"); done
  # With hashes pip accepts no version ranges; the lock already satisfies the constraints.
  if [[ -n ${HASHED:-} ]]; then
    arguments+=(--require-hashes --no-build-isolation)
  else
    arguments+=(-c "$VENV/constraints.txt")
  fi
  note "$name: installing (the first time takes minutes)"
  rm -f "$stamp"
  retry pip_install "${arguments[@]}" || die "pip could not install $name" \
    'read its message above; if the network failed, run this again: it resumes where it stopped'
  printf '%s\n' "$hash" >"$stamp"
}

install_locked() {  # install_locked NAME LOCK FILE...: install the lock, or with LOCKED=0 the files
  local name="$1" lock="$2"
  shift 2
  if [[ $LOCKED == 0 ]]; then
    note 'LOCKED=0: the newest versions, without hashes'
    install "$name" "$@"
    return
  fi
  # In a subshell, because `install` exits on failure.
  (HASHED=1 install "$name" "$lock") ||
    die "$name could not be installed from $lock" \
      'if a hash was wrong, do not continue; if the index lacks a version, set LOCKED=0'
}

install_optional() {  # install_optional NAME FILE...: like install, but a failure is only reported
  (install "$@") || note "$1: NOT installed; everything that needs it is skipped"
}

# Each folder contains one version of TensorRT; tests read its path from UNCERTAINTY_SEG_RTX17 etc.
set_up_tensorrt() {  # set_up_tensorrt FOLDER...: install versions whose builder or API the tests use
  local folder file
  if [[ ${WITH_TENSORRT:-1} == 0 ]]; then
    note 'WITH_TENSORRT=0: not installing TensorRT'
    return
  fi
  for folder in "$@"; do
    file="tensorrt_${folder/trt/api_}.txt"
    file="${file/rtx/rtx_}"
    # Without PIP_UPGRADE pip does not replace files in a target folder.
    PIP_TARGET="$VENV/$folder" PIP_NO_DEPS=1 PIP_UPGRADE=1 \
      install_optional "$folder" "$REQUIREMENTS/$file"
    [[ ! -f $VENV/.installed-$folder ]] ||
      export "UNCERTAINTY_SEG_${folder^^}=$VENV/$folder"
  done
}

set_up_label_tools() {  # the labelling tools' own readers, 1 GB, in a separate folder, because they
  # pin other versions of numpy and OpenCV
  PIP_TARGET="$VENV/label_tools" PIP_UPGRADE=1 \
    install_optional label_tools "$REQUIREMENTS/label_tools.txt"
}

has_browser() { [[ -n "$(type -P chromium chromium-browser google-chrome chrome)" ]]; }

set_up_browser() {  # for the test that renders a report; only CI installs system packages
  if has_browser || [[ -z ${CI:-} || $EUID -ne 0 ]] || ! type -P apt-get >/dev/null; then
    has_browser || note 'no Chromium: the tests of pages in a browser are skipped'
    return 0
  fi
  note 'Chromium: installing with apt-get'
  (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core) \
    >"$VENV/apt.log" 2>&1 || note 'Chromium: NOT installed; the tests that need it are skipped'
}

cv_bridge_folder() {  # cv_bridge_folder EXE [OPTION]: print the folder of its cv_bridge, or nothing
  "$@" -c 'from importlib.util import find_spec
spec = find_spec("cv_bridge")
print(spec.submodule_search_locations[0] if spec else "")' 2>/dev/null || true
}

set_up_cv_bridge() {  # apt's cv_bridge for the tests that compare with it, in an environment next to .venv
  local skipped='the tests that need cv_bridge are skipped'
  [[ ${WITH_CV_BRIDGE:-1} != 0 ]] || { note "WITH_CV_BRIDGE=0: $skipped"; return 0; }
  if [[ -n "$(cv_bridge_folder "$VENV/bin/python")" ]]; then note 'cv_bridge is installed'; return 0; fi
  # The messages of the sourced ROS and those of the wheels are incompatible.
  [[ -z ${ROS_DISTRO:-} ]] || { note "ROS 2 $ROS_DISTRO has no cv_bridge: $skipped"; return 0; }
  if [[ -z "$(cv_bridge_folder "$SYSTEM_PYTHON" -I)" ]]; then
    [[ $EUID -eq 0 ]] && type -P apt-get >/dev/null ||
      { note "no python3-cv-bridge, and no apt-get as root to install it: $skipped"; return 0; }
    note 'cv_bridge: installing python3-cv-bridge with apt-get (170 MB; WITH_CV_BRIDGE=0 skips it)'
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
      --no-install-recommends python3-cv-bridge python3-venv) >"$VENV/apt-cv-bridge.log" 2>&1 ||
      { note "python3-cv-bridge: NOT installed: $skipped"; return 0; }
  fi
  (beside_cv_bridge) || note "the environment for cv_bridge could not be created: $skipped"
}

beside_cv_bridge() {  # create an environment with the distribution's Python, numpy and cv_bridge
  local folder packages
  is_supported "$(python_version "$SYSTEM_PYTHON")" || return
  folder="$(cv_bridge_folder "$SYSTEM_PYTHON" -I)" && [[ -n $folder ]] || return
  VENV="$VENV-cv-bridge"
  make_venv "$SYSTEM_PYTHON" "$(wheels_flavour)"
  "$SYSTEM_PYTHON" -I -c 'import numpy; print(f"numpy~={numpy.__version__}")' \
    >>"$VENV/constraints.txt" || return
  install cv_bridge "$REQUIREMENTS/runtime.txt" "$(wheels_file)"
  packages="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
  # Link this folder only: the message packages next to it are those of ROS 1.
  ln -sfn "$folder" "$packages/cv_bridge"
}

wheels_file() {  # print the requirements file of the requested ROS wheels
  local file="${ROS_WHEELS_FILES[$ROS_WHEELS]:-}"
  [[ -n $file ]] || die "ROS_WHEELS=$ROS_WHEELS is unknown" \
    'set it to jazzy or kilted; to use another distribution, source its setup.bash'
  printf '%s\n' "$REQUIREMENTS/$file"
}

wheels_flavour() {  # print the flavour that is recorded in .venv; that of Jazzy has no suffix
  local flavour="ros-wheels-$ROS_WHEELS"
  printf '%s\n' "${flavour%-jazzy}"
}

set_up() {  # create .venv and install everything that the node needs to build and run
  local exe wheels
  if exe="$(ros_python)"; then
    note "ROS 2 $ROS_DISTRO is sourced: using its packages ($exe)"
    make_venv "$exe" "ros-$ROS_DISTRO" --system-site-packages
    if keeps_numpy_1 "$exe"; then printf 'numpy<2\n' >>"$VENV/constraints.txt"; fi
    cp "$REQUIREMENTS/runtime.txt" "$VENV/runtime.txt"
    cp "$LOCKS/numpy1.txt" "$VENV/locked.txt"
    # pip does not detect apt's OpenCV and would install a second one, which would be imported instead.
    if "$exe" -c 'import cv2' >/dev/null 2>&1; then
      sed -i '/^opencv/d' "$VENV/runtime.txt"
      sed -i '/^opencv/,/[^\\]$/d' "$VENV/locked.txt"
    fi
    if keeps_numpy_1 "$exe"; then
      install_locked runtime "$VENV/locked.txt" "$VENV/runtime.txt" "$REQUIREMENTS/build.txt"
    else  # there is no lock for this distribution
      install runtime "$VENV/runtime.txt" "$REQUIREMENTS/build.txt"
    fi
    return
  fi
  if [[ -n ${ROS_DISTRO:-} ]]; then
    note "ROS_DISTRO=$ROS_DISTRO is set, but no python3 can import rclpy: using the ROS 2 wheels"
    unset PYTHONPATH AMENT_PREFIX_PATH ROS_DISTRO
  fi
  wheels="$(wheels_file)"
  exe="$(find_python)"
  make_venv "$exe" "$(wheels_flavour)"
  install_locked runtime "$LOCKS/$ROS_WHEELS.txt" "$REQUIREMENTS/runtime.txt" "$wheels" \
    "$REQUIREMENTS/build.txt"
}

has_torch() { "$VENV/bin/python" -c 'import torch, torchvision' >/dev/null 2>&1; }

set_up_torch() {  # torch, unless WITH_TORCH=0; the node and the demo never need it
  if has_torch; then
    note "torch is installed ($("$VENV/bin/python" -c 'import torch; print(torch.__version__)'))"
  elif [[ ${WITH_TORCH:-1} == 0 ]]; then
    note 'WITH_TORCH=0: not installing torch'
  else
    note 'torch is a download of up to 3 GB if pip finds no CPU build; WITH_TORCH=0 skips it'
    install torch "$REQUIREMENTS/torch.txt"
  fi
}

set_up_tests() {  # everything that scripts/test needs: 2.5 GB, a quarter of it torch
  # For the environment, and for the files that tests write.
  need_space "$([[ -d $VENV ]] && printf 2 || printf 4)" "$(dirname "$VENV")"
  need_space 2 "${TMPDIR:-/tmp}"
  set_up
  install test "$REQUIREMENTS/test.txt" "$REQUIREMENTS/calibrate.txt" \
    "$REQUIREMENTS/score.txt" "$REQUIREMENTS/labels.txt" "$REQUIREMENTS/sign.txt"
  install_optional openvino "$REQUIREMENTS/openvino.txt"
  set_up_torch
  if has_torch; then install_optional nets "$REQUIREMENTS/nets.txt"; fi
  set_up_tensorrt rtx17
}

set_up_release() {  # everything that scripts/test --release needs in addition
  install_optional ray "$REQUIREMENTS/ray.txt"
  if has_torch; then
    install_optional peers "$REQUIREMENTS/peers.txt"
    PIP_NO_DEPS=1 install_optional peers-alone "$REQUIREMENTS/peers_alone.txt"
  fi
  set_up_tensorrt rtx17 rtx14 trt103 trt1016 trt114
  set_up_label_tools
  set_up_browser
  set_up_cv_bridge
}

# --- the package -------------------------------------------------------------------------------

colcon() {  # run colcon with .venv's Python, so that the installed executables use its packages
  "$VENV/bin/python" -c 'import sys; from colcon_core.command import main
sys.argv[0] = "colcon"; sys.exit(main())' "$@"
}

colcon_build() {  # colcon_build FOLDER: build into FOLDER/build and FOLDER/install
  local folder="$1"
  mkdir -p "$folder/log"
  (cd "$ROOT" && COLCON_LOG_PATH="$folder/log" colcon build \
    --build-base "$folder/build" --install-base "$folder/install") >"$folder/log/build.log" 2>&1 || {
    cat "$folder/log/build.log"
    die 'colcon build failed' 'read its message above'
  }
  note "built: $folder/install"
}

programs_in_venv() {  # programs_in_venv FOLDER: write programs to $VENV/bin that run FOLDER/install
  local path program
  for path in "$ROOT"/scripts/bin/*; do
    program="$(basename "$path")"
    printf '%s\n' '#!/usr/bin/env bash' '# Written by scripts/lib.sh.' "source '$1/install/setup.bash'" \
      "exec '$1/install/uncertainty_seg/bin/$program' \"\$@\"" >"$VENV/bin/$program"
    chmod +x "$VENV/bin/$program"
  done
  note "command line: $VENV/bin/uncertainty_seg, or uncertainty_seg after: source $1/install/setup.bash"
}

source_install() {  # source_install FOLDER: source its setup.bash, which fails under set -u
  set +u
  # shellcheck disable=SC1091
  source "$1/install/setup.bash"
  set -u
}
