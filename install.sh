#!/bin/sh
# Installs this checkout apart from the system's Python, and a llama-server for it. See --help.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$root/scripts/environment.sh"

usage() {
    cat <<'END'
Usage: ./install.sh [--no-llama] [--run ARGS...]
       ./install.sh --uninstall

Installs cyber-inference-tui from this checkout for the current user, root or not, links it into
~/.local/bin, and gets a llama-server unless there is one. Run it again to update: what is up to
date already is left alone.

  --no-llama     leave out the llama-server
  --run ARGS...  afterwards run 'cyber-inference-tui ARGS...', for example --run --demo
  --uninstall    remove the program and its link; models, settings and llama-server stay
  --help         show this

CYBER_INFERENCE_HOME  where the program goes (~/.local/share/cyber-inference-tui/app)
PYTHON                the Python to use (the first one that is 3.11 or newer)
END
}

# A relative HOME is none.
case ${HOME:-} in
/*) ;;
*)
    [ -n "${CYBER_INFERENCE_HOME:-}" ] ||
        fail "There is no home directory: set HOME, or CYBER_INFERENCE_HOME."
    HOME=''
    ;;
esac
app=${CYBER_INFERENCE_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/cyber-inference-tui/app}
program=$app/bin/cyber-inference-tui
link=${HOME:+$HOME/.local/bin/cyber-inference-tui}
llama=yes
run=no

while [ $# -gt 0 ]; do
    case $1 in
    --no-llama) llama=no ;;
    --run) run=yes && shift && break ;;
    --uninstall)
        if [ "$(readlink "$link" || true)" = "$program" ]; then rm -f "$link"; fi
        if [ -f "$app/pyvenv.cfg" ]; then rm -rf "$app"; fi
        say "Removed $app. Models, settings and llama-server are still there."
        exit 0
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done

# Another Python's settings must not reach into ours.
unset PYTHONHOME PYTHONPATH

if [ -e "$app" ] && [ ! -f "$app/pyvenv.cfg" ] && [ -n "$(ls -A "$app")" ]; then
    fail "$app is not empty and not an environment of this program; set CYBER_INFERENCE_HOME."
fi
mkdir -p "$app"
make_environment "$app"
stamp=$(cd "$root" && find pyproject.toml README.md cyber_inference_tui -type f \
    ! -name '*.pyc' -exec cksum {} + | sort | cksum)
if [ ! -f "$app/.installed" ] || [ "$(cat "$app/.installed")" != "$stamp" ]; then
    say "installing cyber-inference-tui into $app"
fi
# The version may be the same as before: what is installed goes first.
if [ -x "$program" ] && [ "$(cat "$app/.installed" 2>/dev/null)" != "$stamp" ]; then
    "$app/bin/python" -m pip uninstall --quiet --disable-pip-version-check --yes \
        cyber-inference-tui >&2
fi
install_once "$app" "$stamp" --upgrade "$root"

if [ -z "$link" ]; then
    say "There is no home directory, so there is no link: run $program."
elif [ -e "$link" ] && [ ! -L "$link" ]; then
    say "$link is there already and is not a link; it was left alone."
else
    mkdir -p "$HOME/.local/bin"
    ln -sf "$program" "$link"
fi

# The settings that decide where llama-server goes and where the service will listen.
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
    "$program" ${config:+--config "$config"} ${data:+--data-dir "$data"} install-llama >&2
fi

ask="curl http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' -d \
'{\"model\": \"demo\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'"

if [ "$run" = yes ]; then
    # There is nothing to open the app in without a terminal: then the service runs alone.
    if [ -z "$command" ] && ! { [ -t 0 ] && [ -t 1 ]; }; then
        say "There is no terminal here, so the service runs without its app. When it listens, ask it:"
        say "  $ask"
        set -- --no-ui "$@"
    fi
    exec "$program" "$@"
fi

case :$PATH: in
*":$HOME/.local/bin:"*) name=cyber-inference-tui ;;
*) name=${link:-$program} ;;
esac
say "Installed. Open the app, with a built-in model to try it on:"
say "  $name --demo"
say "or run the service alone, and ask it from another terminal:"
say "  $name serve --demo"
say "  $ask"
