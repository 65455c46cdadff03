#!/bin/sh
# Starts APT Studio. Finds a Python and hands over to tools/launch.py, where everything else happens.
export PYTHONUTF8=1

# It may have been started through a symbolic link, or a chain of them; not every system's readlink has -f.
script=$0
while [ -h "$script" ]; do
    target=$(readlink "$script") || exit 1
    case $target in
        /*) script=$target ;;
        *) script=$(dirname -- "$script")/$target ;;
    esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd -P) || exit 1

# -I: a file named ensurepip.py in the folder it is started from must not be imported.
# First a Python that can make a venv; failing that, any of the right version, to say what it lacks.
for needed in 'sys, ensurepip' 'sys'; do
    for python in python3.13 python3.12 python3.11 python3 python; do
        if "$python" -I -c "import $needed; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" >/dev/null 2>&1; then
            exec "$python" "$here/tools/launch.py" "$@"
        fi
    done
done
echo "APT Studio: needs Python 3.11, 3.12 or 3.13 and found none; install one from python.org, or by" \
    "'sudo apt install python3 python3-venv' (Debian, Ubuntu), 'brew install python@3.13' (macOS), then start again." >&2
exit 1
