# shellcheck shell=sh
# Sourced by install.sh and scripts/test: make a virtual environment for the program, and install a
# Python if the system's is too old or missing. POSIX sh; all messages go to stderr.

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# uv installs no newer Python than the tests have run with.
pythons='>=3.11,<3.15'

# A later release of uv may behave differently. The checksums are those of its release archives,
# then of its wheels: for x86-64 with glibc and with musl, for aarch64, for macOS.
uv_version=0.12.16
uv_linux_x86_64='x86_64-unknown-linux-musl a01206ffbd60f3a7ee30949be1863527986f5307494a064042c69ce7e6d44799'
uv_linux_aarch64='aarch64-unknown-linux-musl 5beba1f35c0922fd086cce850ce919e55bc4e873c4fcda891343526afdb4c5b3'
uv_macos_x86_64='x86_64-apple-darwin a42bcc9ce97eb8b364d7f162233a9c6b8c0ee25388e551d362809795127e0c31'
uv_macos_arm64='aarch64-apple-darwin b6e03fae61704b1aa622f12b792a69483e837b83068e44f4fd34f8a07a8f74a3'
uv_wheels='c4570eeeef838ddc6957e1b28c5e88305bb492c83b000ed3b8ff3cf86a8ecf00
81b2f0fe4697d37802aea255a81eb2867e6bda2745568afca341b1e1d2c0cb39
99bdd4ffb8c98dc4d6a2a3155f4fe4c806a44d0cde1c525d155f1183f676499f
50ed2f31db45e620a10a9e9fc20d2a828a207db67b791e7b888395679e96bab4
3b07f6867309ae1957b99d0ab9b008e3cea6497e2e9aec4a5c9642ddfc1fc3c3'

# The output of pip. install.sh moves it, because it removes an environment that failed.
pip_log=''

# share_index: use the variables for index and certificates of pip also for uv, and the reverse.
share_index() {
    index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}}
    # uv allows NAME=URL.
    case ${index%%://*} in *=*) index=${index#*=} ;; esac
    index=${PIP_INDEX_URL:-$index}
    if [ -n "$index" ]; then
        export PIP_INDEX_URL="$index" UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    fi
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
    [ -z "${PIP_NO_INDEX:-}" ] || export UV_NO_INDEX="${UV_NO_INDEX:-1}"
    [ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
}

is_suitable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# find_python DIR: print the first Python 3.11 or newer that can make environments, or nothing.
# Debian's python3 lacks ensurepip until python3-venv is installed.
find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 \
        "$1"/python/*/bin/python3; do
        if is_suitable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

# python_state: print why the system's Python cannot be used.
python_state() {
    if ! command -v python3 >/dev/null 2>&1; then
        printf '%s\n' 'There is no python3 here.'
        return
    fi
    found=$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || {
        printf '%s\n' 'The python3 here does not run.'
        return
    }
    case $found in
    [0-2].* | 3.[0-9].* | 3.10.*) printf '%s\n' "The python3 here is $found, older than 3.11." ;;
    *) printf '%s\n' "The python3 here ($found) lacks its venv module (package python3-venv)." ;;
    esac
}

is_root_with_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

apt_install() {
    say "installing $* with apt-get"
    DEBIAN_FRONTEND=noninteractive apt-get -q -q -y --no-install-recommends install "$@" \
        >/dev/null </dev/null
}

# apt_python: make the system's python3 suitable with apt, as root; fail if that is not possible.
apt_python() {
    is_root_with_apt || return 1
    apt-get -q -q update >/dev/null 2>&1 </dev/null || true
    case $(apt-cache policy python3 2>/dev/null | sed -n 's/^ *Candidate: *//p') in
    '' | '(none)' | [0-2].* | 3.[0-9].* | 3.[0-9]-* | 3.10.*) return 1 ;;
    esac
    # The first python3 on PATH may not be the one of apt.
    ! is_suitable /usr/bin/python3 && apt_install python3 python3-venv && is_suitable python3
}

# fetch URL FILE: download with the first tool that is installed and succeeds.
fetch() {
    limit=600
    if command -v curl >/dev/null 2>&1 &&
        curl -fsSL --retry 2 --connect-timeout 20 --max-time $limit -o "$2" -- "$1"; then
        return
    fi
    # busybox's wget knows only some options of GNU's.
    if command -v wget >/dev/null 2>&1 && wget -q -T 60 -O "$2" "$1"; then
        return
    fi
    # Any Python 3 can do it.
    command -v python3 >/dev/null 2>&1 && python3 - "$1" "$2" 2>/dev/null <<'PYTHON'
import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=60) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file)
PYTHON
}

sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum "$1"; else shasum -a 256 "$1"; fi |
        cut -d ' ' -f 1
}

# uv_by_pip DIR: install DIR/bin/uv with any python3 that has pip or can make an environment with
# it. pip checks the digests.
uv_by_pip() {
    old=python3
    if ! "$old" -m pip --version >/dev/null 2>&1; then
        "$old" -m venv "$1/old" >/dev/null 2>&1 || return 1
        old=$1/old/bin/python3
    fi
    {
        printf '%s' "uv==$uv_version"
        for sum in $uv_wheels; do
            printf ' --hash=sha256:%s' "$sum"
        done
    } >"$1/requirements.txt"
    PIP_USER=0 "$old" -m pip --disable-pip-version-check install --quiet --no-input --no-deps \
        --only-binary :all: --ignore-requires-python --require-hashes --target "$1" \
        --requirement "$1/requirements.txt" >"$1/pip.log" 2>&1 && [ -x "$1/bin/uv" ] &&
        rm -rf "$1/old"
}

# uv_by_release DIR: install DIR/bin/uv from uv's release archive.
uv_by_release() {
    case $(uname -s)-$(uname -m) in
    Linux-x86_64) release=$uv_linux_x86_64 ;;
    Linux-aarch64 | Linux-arm64) release=$uv_linux_aarch64 ;;
    Darwin-x86_64) release=$uv_macos_x86_64 ;;
    Darwin-arm64) release=$uv_macos_arm64 ;;
    *) return 1 ;;
    esac
    url=${UV_INSTALLER_GITHUB_BASE_URL:-https://github.com}/astral-sh/uv/releases/download
    url=$url/$uv_version/uv-${release%% *}.tar.gz
    fetch "$url" "$1/uv.tar.gz" || return 1
    if [ "$(sha256_of "$1/uv.tar.gz")" != "${release#* }" ]; then
        say "What $url sent is not the uv $uv_version that this installer knows; it was not used."
        return 1
    fi
    mkdir -p "$1/bin"
    tar -xzf "$1/uv.tar.gz" -C "$1/bin" --strip-components=1 && rm -f "$1/uv.tar.gz"
}

# get_uv DIR: set $uv to a uv that runs: the one on PATH, or DIR/uv/bin/uv.
get_uv() {
    for uv in uv "$1/uv/bin/uv"; do
        "$uv" --version >/dev/null 2>&1 && return
    done
    say "getting uv $uv_version, which brings a Python"
    for way in uv_by_pip uv_by_release; do
        rm -rf "$1/uv"
        mkdir -p "$1/uv"
        $way "$1/uv" && "$uv" --version >/dev/null 2>&1 && return
    done
    rm -rf "$1/uv"
    return 1
}

# make_environment DIR BASE: make DIR/bin/python with pip, unless it exists and works. A Python that
# has to be installed for it, and uv, are in BASE/python and BASE/uv.
make_environment() {
    set -- "$1" "${2:-$1.brought}"
    if "$1/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
        return
    fi
    rm -f "$1/.installed"
    mkdir -p "$1" 2>/dev/null || fail "$1 cannot be made: is there room, and may you write there?"
    pip_log=${pip_log:-$1/pip.log}
    share_index
    python=$(find_python "$2")
    if [ -n "${PYTHON:-}" ] && [ "$python" != "$PYTHON" ]; then
        say "PYTHON ($PYTHON) is not a Python 3.11 or newer with its venv module: looking for another."
    fi
    if [ -z "$python" ] && ! uv --version >/dev/null 2>&1 && apt_python; then
        python=python3
    fi
    if [ -n "$python" ]; then
        say "making an environment in $1"
        "$python" -m venv --clear "$1" >"$pip_log" 2>&1 </dev/null || fail "$(pip_problem "$1")"
        return
    fi
    state=$(python_state)
    if ! get_uv "$2"; then
        # Root can install a pip of any age.
        { is_root_with_apt && apt_install python3-venv ca-certificates && get_uv "$2"; } ||
            fail "$state uv, which would bring a newer one, could not be had either: connect this" \
                "machine to the network (or name mirrors with PIP_INDEX_URL and" \
                "UV_INSTALLER_GITHUB_BASE_URL), have pip, curl or wget here (on Debian and Ubuntu:" \
                "sudo apt-get install python3-venv curl ca-certificates), or install Python 3.11" \
                "or newer with venv."
    fi
    say "$state Making an environment in $1 with uv."
    UV_PYTHON_INSTALL_DIR=${UV_PYTHON_INSTALL_DIR:-$2/python} UV_VENV_CLEAR=1 \
        "$uv" --quiet --no-cache venv --no-project --python "$pythons" "$1" >&2 ||
        fail "$state uv could not bring a newer one, for the reason above: connect this machine to" \
            "the network, or name a mirror with UV_PYTHON_INSTALL_MIRROR or" \
            "UV_PYTHON_DOWNLOADS_JSON_URL."
    "$1/bin/python" -m ensurepip >/dev/null 2>&1 ||
        "$uv" --quiet --no-cache pip install --python "$1/bin/python" pip >&2 ||
        fail "uv could not put pip into $1, for the reason above."
}

# install_once DIR STAMP ARGS...: pip install ARGS into DIR, unless DIR has this STAMP already.
install_once() {
    environment=$1 stamp=$2
    shift 2
    if [ -f "$environment/.installed" ] && [ "$(cat "$environment/.installed")" = "$stamp" ]; then
        return
    fi
    share_index
    pip_log=${pip_log:-$environment/pip.log}
    rm -f "$environment/.installed"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" \
        >"$pip_log" 2>&1 </dev/null || fail "$(pip_problem "$environment")"
    printf '%s\n' "$stamp" >"$environment/.installed"
}

# pip_problem DIR: print why pip failed (its output is in $pip_log), and a way out.
pip_problem() {
    if grep -q 'No space left on device\|Disk quota exceeded' "$pip_log" || ! has_room "$1"; then
        printf '%s\n' "There is no room left for $1: make some and try again."
    elif grep -q "$no_network" "$pip_log"; then
        host=$(sed -n "s/.*host='\([^']*\)'.*/\1/p" "$pip_log" | sed 1q)
        what=$(sed -n 's/.*satisfies the requirement \([^ ]*\) (from versions: none).*/\1/p' \
            "$pip_log" | sed 1q)
        printf '%s\n' "pip could not get ${what:-what it needs} from ${host:-the package index}:" \
            "connect this machine to the network, or name a mirror with PIP_INDEX_URL, or a folder" \
            "of wheels with PIP_NO_INDEX=1 and PIP_FIND_LINKS, and try again." |
            tr '\n' ' '
    else
        why=$(sed -n 's/^ *ERROR: *//p; s/^ *\([A-Za-z.]*Error: .*\)/\1/p' "$pip_log" | sed '$!d')
        printf '%s\n' "Nothing could be installed into $1: ${why:-$(sed '$!d' "$pip_log")}"
    fi
}
no_network='NewConnectionError\|NameResolutionError\|ConnectTimeout\|ReadTimeout\|ProxyError'
no_network="$no_network\\|SSLError\\|ConnectionResetError\\|ConnectionError\\|RemoteDisconnected"
no_network="$no_network\\|(from versions: none)"

# has_room DIR: succeed if at least a megabyte is free.
has_room() {
    room=$(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }')
    [ "${room:-1024}" -ge 1024 ]
}
