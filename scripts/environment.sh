# Sourced by install.sh and scripts/test: an environment of its own for the program, apart from
# the system's Python. POSIX sh; everything is said on stderr.

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The first Python 3.11 or newer that can make environments; empty when there is none.
# Debian's python3 lacks ensurepip until python3-venv is installed.
find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

# make_environment DIR: DIR/bin/python with pip, made only if it is not there or does not work.
make_environment() {
    if "$1/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
        return
    fi
    rm -f "$1/.installed"
    python=$(find_python)
    if [ -z "$python" ] && command -v uv >/dev/null 2>&1; then
        say "making an environment in $1 with uv"
        uv venv --quiet --seed --clear --python '>=3.11' "$1" ||
            fail "uv could not make an environment with Python 3.11 or newer."
        return
    fi
    if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing python3-venv"
        apt-get -q -q update >/dev/null &&
            DEBIAN_FRONTEND=noninteractive apt-get -q -q -y --no-install-recommends install \
                python3 python3-venv >/dev/null || fail "apt-get could not install python3-venv."
        python=$(find_python)
    fi
    [ -n "$python" ] || fail "Python 3.11 or newer with its venv module is needed:" \
        "install it (on Debian and Ubuntu the package python3-venv), or install uv, and try again."
    say "making an environment in $1"
    "$python" -m venv --clear "$1"
}

# install_once DIR STAMP ARGS...: pip install ARGS into DIR, unless STAMP says that this was done.
install_once() {
    environment=$1 stamp=$2
    shift 2
    if [ -f "$environment/.installed" ] && [ "$(cat "$environment/.installed")" = "$stamp" ]; then
        return
    fi
    rm -f "$environment/.installed"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-input "$@" >&2 || fail "pip could not install into $environment."
    printf '%s\n' "$stamp" >"$environment/.installed"
}
