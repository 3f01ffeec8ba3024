#!/usr/bin/env bash
# The one entry point: makes the environment, then hands over to labreport's runner. ./run_all.sh --help
set -euo pipefail
{ true 3>&1; } 2>/dev/null || exec >/dev/null # closed by the caller: the next file opened would be written to instead
true 3>&2 || exec 2>/dev/null
script=$(readlink -f -- "${BASH_SOURCE[0]}") # the checkout's own, when it is called through a link
root=${script%/*}
venv=$root/.venv
log=$root/.run_all.log

fail() { echo "error: $*" >&2; exit 2; }

[[ $root != *:* ]] || fail "$root has a colon in it, where Python's search path ends: move or rename that folder"

has_dependencies() { # python, extras: does this environment have everything pyproject.toml asks for?
    "$1" "$root/reports/labreport/environment.py" "${@:2}"
}

is_locked() { "$venv/bin/python" "$root/reports/labreport/environment.py" --locked; }

make_environment() {
    local stamp install lock=$root/requirements.lock constraints=() python=${PYTHON:-python3}
    [ -f "$lock" ] && constraints=(--constraint "$lock") || lock=
    stamp="$root $(cat "$root/pyproject.toml" ${lock:+"$lock"} | cksum)"
    if [ "$(cat "$venv/run_all.stamp" 2>/dev/null)" = "$stamp" ] && { [ -z "$locked" ] || is_locked; }; then return; fi
    echo "making the environment in .venv, once (a few minutes, several GB with torch); details in ${log##*/}"
    if command -v uv >/dev/null; then
        [ -x "$venv/bin/python" ] || uv venv --quiet --allow-existing --project "$root" "$venv" >"$log" 2>&1 ||
            fail "uv cannot make $venv: $(tail -n 1 "$log")"
        install=(uv pip install --python "$venv/bin/python")
    else
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
            fail "$python is missing or older than 3.11: install Python 3.11 or newer, or uv, or set PYTHON=/path/to/python3"
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python has no venv module: install it (Debian and Ubuntu: python3-venv), or uv"
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" >"$log" 2>&1 ||
            fail "$python -m venv cannot make $venv: $(tail -n 1 "$log")"
        install=("$venv/bin/python" -m pip install --disable-pip-version-check --retries 2)
    fi
    [ -n "$locked" ] && [ -n "$lock" ] && constraints+=(--requirement "$lock") # also what the installer would keep
    "${install[@]}" ${constraints[@]+"${constraints[@]}"} --editable "$root[test]" >"$log" 2>&1 ||
        fail "the packages cannot be installed (no network? no room?); the end of $log: $(grep -v '^ *$' "$log" | tail -n 1)"
    echo "$stamp" >"$venv/run_all.stamp"
}

locked= # --locked: .venv gets exactly the versions of requirements.lock; labreport refuses another environment
[[ " $* " == *" --locked "* ]] && locked=yes
extras=()
[ "${1:-}" = test ] && extras=(test)
active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
if [[ " $* " == *" --help "* || " $* " == *" -h "* ]] && [ "${1:-}" != test ] && command -v python3 >/dev/null; then
    python=python3 # help needs no packages
elif [ -n "$active" ] && [ -x "$active/bin/python" ] && has_dependencies "$active/bin/python" ${extras[@]+"${extras[@]}"}; then
    python=$active/bin/python
else
    if command -v flock >/dev/null; then # two calls at once: the second waits until the environment is there
        exec 9<"$script"
        flock 9
    fi
    make_environment
    exec 9<&-
    python=$venv/bin/python
fi
# This checkout's packages, whatever other checkout an active environment may have installed.
export PYTHONPATH="$root:$root/reports${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -P -m labreport "$@" # -P: not what lies in the current folder, another checkout perhaps
