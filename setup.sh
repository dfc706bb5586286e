# Source this file: `. ./setup.sh`. It installs the suite into the active virtual environment, or
# into .venv, which it makes and activates; with everything in place it takes a few seconds.
# POSIX sh; it changes nothing else in your shell.

_suite_setup() {
    if [ ! -f pyproject.toml ] || [ ! -f constraints.txt ]; then
        echo "setup.sh: run '. ./setup.sh' in the folder of the clone" >&2
        return 1
    fi
    if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" = base ]; then
        if [ ! -x .venv/bin/python ]; then
            _suite_venv || return 1
        fi
        . .venv/bin/activate || return 1
    fi
    python -m pip install --quiet --constraint constraints.txt \
        --editable '.[test,docs,transfer,detection]' || return 1
    _suite_opencv
}

# mmcv's OpenCV links libGL and GLib, which a machine without a desktop may lack; nothing but
# detection needs it, so the rest is set up all the same.
_suite_opencv() {
    if python -c 'import cv2' 2>/dev/null; then
        return 0
    fi
    echo "setup.sh: OpenCV lacks a library; installing Debian's libgl1 and libglib2.0-0" >&2
    if ! _suite_apt libgl1 libglib2.0-0; then
        echo "setup.sh: could not; detection needs them, nothing else does" >&2
    fi
}

_suite_apt() {
    _suite_sudo=
    if [ "$(id -u)" != 0 ]; then
        _suite_sudo=sudo
    fi
    $_suite_sudo apt-get update -qq && $_suite_sudo apt-get install -y -qq "$@"
}

_suite_venv() {
    _suite_python=
    for _suite_candidate in python3.11 python3.12 python3.13 python3; do
        if "$_suite_candidate" -c \
            'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            _suite_python=$_suite_candidate
            break
        fi
    done
    if [ -z "$_suite_python" ]; then
        echo "setup.sh: Python 3.11, 3.12 or 3.13 is needed, and none was found" >&2
        return 1
    fi
    # Debian's python3 comes without ensurepip; its package python3-venv brings it.
    if ! "$_suite_python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "setup.sh: $_suite_python lacks venv; installing Debian's python3-venv" >&2
        if ! _suite_apt python3-venv; then
            echo "setup.sh: could not; install python3-venv, or activate an environment first" >&2
            return 1
        fi
    fi
    "$_suite_python" -m venv --clear .venv
}

_suite_setup
