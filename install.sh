#!/bin/sh
# Install this checkout into its own environment, and a llama-server for it. See --help.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$root/scripts/environment.sh"
. "$root/scripts/installed.sh"

usage() {
    cat <<'TEXT'
Usage: ./install.sh [--no-llama] [--run ARGS...]
       ./install.sh --uninstall
       ./install.sh --purge [--yes]

Installs cyber-inference-tui from this checkout for the current user, root or not, links it into
~/.local/bin, and gets a llama-server unless there is one. Run it again to update; an
update that fails leaves the program unchanged. Without a Python 3.11 or newer, uv installs one,
which only this program uses.

  --no-llama     leave out the llama-server
  --run ARGS...  afterwards run 'cyber-inference-tui ARGS...', for example --run --demo
  --uninstall    stop the service and remove the program, its systemd unit and its links; models,
                 settings and llama-server stay, and are listed
  --purge        remove these, too, after asking
  --yes          with --purge: do not ask
  --help         show this

CYBER_INFERENCE_HOME  where the program is installed (~/.local/share/cyber-inference-tui/app)
PYTHON                the Python to use (the first one that is 3.11 or newer)
The variables of pip and uv for an index or a mirror are used, too: docs/installing.md.
TEXT
}

# A relative HOME or XDG directory does not count, as the XDG specification says.
case ${HOME:-} in
/*) ;;
*)
    [ -n "${CYBER_INFERENCE_HOME:-}" ] ||
        fail "There is no home directory: set HOME, or CYBER_INFERENCE_HOME."
    HOME=''
    ;;
esac
case ${XDG_DATA_HOME:-} in
/*) share=$XDG_DATA_HOME ;;
*) share=$HOME/.local/share ;;
esac
app=${CYBER_INFERENCE_HOME:-$share/cyber-inference-tui/app}
case $app in
/*) ;;
*) app=$PWD/$app ;;
esac
names='cyber-inference-tui citui'
program=$app/bin/cyber-inference-tui
llama=yes
run=no
remove=no
yes=no

while [ $# -gt 0 ]; do
    case $1 in
    --no-llama) llama=no ;;
    --run) run=yes && shift && break ;;
    --uninstall) [ "$remove" = purge ] || remove=program ;;
    --purge) remove=purge ;;
    --yes) yes=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        say "There is no option '$1'."
        usage >&2
        exit 2
        ;;
    esac
    shift
done
if [ "$yes" = yes ] && [ "$remove" != purge ]; then
    usage >&2
    exit 2
fi

# Settings of another Python must not affect ours.
unset PYTHONHOME PYTHONPATH

if [ "$remove" != no ]; then
    . "$root/scripts/uninstall.sh"
    exit 0
fi

if [ -e "$app" ] && ! is_ours && [ -n "$(ls -A "$app")" ]; then
    fail "$app is not empty and not an environment of this program; set CYBER_INFERENCE_HOME."
fi
mkdir -p "$app" 2>/dev/null || fail "$app cannot be made: set CYBER_INFERENCE_HOME to another place."
take_lock

stamp=$(cd "$root" && find pyproject.toml README.md LICENSE cyber_inference_tui docs/man -type f \
    ! -name '*.pyc' -exec cksum {} + 2>/dev/null | sort | cksum)
new=''
kept=''
[ ! -e "$program" ] || kept=yes
pip_log=$(mktemp)
tidy() {
    if [ -n "$new" ]; then
        rm -rf "$new"
        [ -z "$kept" ] || say "The installed program is unchanged."
        mv "$pip_log" "$app/install.log" 2>/dev/null || true
    fi
    rm -f "$pip_log"
}
trap tidy EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# install_new: install a version beside the current one, and switch to it only after it has run.
# That run gets no settings of the user, since it tests the program alone.
install_new() {
    name=$(date -u +%Y%m%dT%H%M%S)-$$
    new=$app/versions/$name
    mkdir -p "$app/versions"
    say "installing cyber-inference-tui into $app (it trusts the package index over TLS, without" \
        "hashes: docs/installing.md)"
    make_environment "$new" "$app"
    install_once "$new" "$stamp" "$root"
    {
        "$new/bin/cyber-inference-tui" --version &&
            "$new/bin/python" -P "$root/scripts/try_modules.py"
    } >"$pip_log" 2>&1 </dev/null || fail "The new program does not run: $(sed '$!d' "$pip_log")"
    switch_to "$name"
    new=''
}

if [ "$(cat "$app/current/.installed" 2>/dev/null)" != "$stamp" ] ||
    ! "$app/current/bin/cyber-inference-tui" --version >/dev/null 2>&1 </dev/null; then
    clean_up_versions
    install_new
fi
link_programs
[ -n "$HOME" ] || say "There is no home directory, so there is no link: run $program."
put_extras
clean_up_versions
offer_restart

# The settings that decide where llama-server is installed and where the service listens.
config='' data='' port=${CYBER_INFERENCE_PORT:-8337} command='' previous=''
for argument in "$@"; do
    case $previous in
    --config) config=$argument ;;
    --data-dir) data=$argument ;;
    --port) port=$argument ;;
    --host | --models-dir | --log-level | --attach) ;;
    *) case $argument in -*) ;; *) command=${command:-$argument} ;; esac ;;
    esac
    case $argument in
    --config=*) config=${argument#*=} ;;
    --data-dir=*) data=${argument#*=} ;;
    --port=*) port=${argument#*=} ;;
    --no-ui) command=serve ;;
    esac
    previous=$argument
done

if [ "$llama" = yes ]; then
    "$program" ${config:+--config "$config"} ${data:+--data-dir "$data"} install-llama >&2 9>&-
fi

ask="curl http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' -d \
'{\"model\": \"demo\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'"

if [ "$run" = yes ]; then
    # Without a terminal the service runs without the app.
    if [ -z "$command" ] && ! { [ -t 0 ] && [ -t 1 ]; }; then
        say "There is no terminal here, so the service runs without its app. When it listens, ask it:"
        say "  $ask"
        set -- --no-ui "$@"
    fi
    tidy
    exec 9>&-
    exec "$program" "$@"
fi

name=$program
link=${HOME:+$HOME/.local/bin/cyber-inference-tui}
if [ -n "$link" ] && [ "$(readlink "$link" || true)" = "$program" ]; then
    name=$link
    case :$PATH: in *":$HOME/.local/bin:"*) name=cyber-inference-tui ;; esac
fi
say "Installed. Open the app, with a built-in model to try it on:"
say "  $name --demo"
say "or run the service alone, and ask it from another terminal:"
say "  $name serve --demo"
say "  $ask"
