# shellcheck shell=sh disable=SC2154 # the variables of install.sh
# Sourced by install.sh for --uninstall and --purge ($remove is program or purge). POSIX sh.

# Nothing is guessed: the program names its directories, or its settings if it is removed.
setting() {
    "$program" config get "$1" 2>/dev/null </dev/null || {
        path=$(sed -n "s/^$1 *= *[\"']\([^\"']*\)[\"'].*/\1/p" "$config_file" 2>/dev/null || true)
        case $path in
        \~/*) printf '%s\n' "$HOME/${path#??}" ;;
        /*) printf '%s\n' "$path" ;;
        esac
    }
}
config_file=$("$program" config path 2>/dev/null </dev/null || true)
case ${XDG_CONFIG_HOME:-} in
/*) settings=$XDG_CONFIG_HOME/cyber-inference-tui ;;
*) settings=${HOME:+$HOME/.config/cyber-inference-tui} ;;
esac
config_file=${config_file:-${settings:+$settings/config.toml}}
data=$(setting data_dir)
data=${data:-$share/cyber-inference-tui}
models=$(setting models_dir)
models=${models:-$data/models}

# The files of the program in its data directory, besides models and llama-server.
state='logs demo history.sqlite3 history.sqlite3-wal history.sqlite3-shm headers.json servers.json
service.json service.json.new service.lock start.lock login.secret passwords.json'

size_of() { du -skP "$1" 2>/dev/null | awk '{
    size = $1; unit = "KiB"
    if (size >= 1024) { size /= 1024; unit = "MiB" }
    if (size >= 1024) { size /= 1024; unit = "GiB" }
    printf (unit == "KiB" ? "%d %s" : "%.1f %s"), size, unit }'; }

# show WHAT PATH
show() {
    [ -e "$2" ] || [ -L "$2" ] || return 0
    into=''
    [ ! -L "$2" ] || into=" (a link to $(readlink "$2"))"
    [ "$1" != models ] || is_within "$data" "$2" || into=" (elsewhere: --purge leaves them)"
    say "  $(printf '%-13s %10s' "$1" "$(size_of "$2")")  $2$into"
}

# is_within DIR PATH: succeed if PATH is in DIR, after links and dots are resolved.
is_within() {
    outer=$(CDPATH='' cd -P -- "$1" 2>/dev/null && pwd -P) || return 1
    inner=$(CDPATH='' cd -P -- "$(dirname -- "$2")" 2>/dev/null && pwd -P) || return 1
    case $inner/ in "${outer%/}"/*) ;; *) return 1 ;; esac
}

list_kept() {
    show models "$models"
    show llama-server "$data/llama"
    show settings "$config_file"
    [ -z "$settings" ] || show 'keys of the app' "$settings/keys.toml"
    for entry in $state; do show state "$data/$entry"; done
}

# stop_units: remove the systemd units that this program wrote for itself.
stop_units() {
    case ${XDG_CONFIG_HOME:-} in
    /*) folder=$XDG_CONFIG_HOME ;;
    *) folder=$HOME/.config ;;
    esac
    for file in "$folder/systemd/user/$unit" "/etc/systemd/system/$unit"; do
        # shellcheck disable=SC2016 # the marks are meant
        if ! grep -q '^# Written by `cyber-inference-tui service install`' "$file" 2>/dev/null ||
            ! grep -qF "$app/" "$file"; then
            continue
        fi
        scope=--user
        case $file in /etc/*) scope=--system ;; esac
        if [ $scope = --system ] && [ "$(id -u)" != 0 ]; then
            fail "The unit $file starts this program: remove it first, with" \
                "sudo $(quoted "$program") service uninstall --system"
        fi
        say "removing the systemd unit $file"
        # If systemd does not answer, there is nothing to stop.
        systemctl $scope disable --now "$unit" >/dev/null 2>&1 || true
        rm -f "$file"
        systemctl $scope daemon-reload >/dev/null 2>&1 || true
    done
}

# stop_services: stop the services of this installation; requests in flight may finish.
stop_services() {
    # shellcheck disable=SC2046 # pids
    for pid in $(services_of $(pids_below "$app" /versions/ /lib/ /bin/)); do
        say "stopping the service (pid $pid)"
        kill -TERM "$pid" 2>/dev/null ||
            fail "The service (pid $pid) belongs to another user, who has to stop it first."
        waited=0
        while kill -0 "$pid" 2>/dev/null && [ "$(process_state "$pid")" != Z ]; do
            [ $waited -lt 90 ] ||
                fail "The service (pid $pid) has not stopped within 90 s: a second signal stops it at once" \
                    "(kill $pid)."
            waited=$((waited + 1))
            sleep 1
        done
    done
}

# A process that has ended may still be a zombie.
process_state() { ps -o stat= -p "$1" 2>/dev/null | cut -c 1 || true; }

remove_program() {
    for name in $names; do unlink_program "$name"; done
    if [ -f "$app/files" ]; then
        while IFS= read -r file; do rm -f "$file"; done <"$app/files"
    fi
    # By name, so that only installed files are removed, whatever CYBER_INFERENCE_HOME is.
    [ ! -f "$app/pyvenv.cfg" ] || remove_former
    for name in versions current .current uv python files install.log .cyber-inference-tui; do
        rm -rf "${app:?}/$name"
    done
    rmdir "$app/bin" "$app" 2>/dev/null || true
    say "Removed the program from $app."
}

purge() {
    for entry in llama $state; do rm -rf "${data:?}/$entry"; done
    if is_within "$data" "$models"; then
        rm -rf "${models:?}"
    elif [ -e "$models" ]; then
        say "The models in $models are outside the data directory and were kept:" \
            "rm -r $(quoted "$models") removes them."
    fi
    if [ -n "$settings" ]; then
        rm -f "$settings/config.toml" "$settings/keys.toml"
        rmdir "$settings" 2>/dev/null || true
    fi
    rmdir "$data" 2>/dev/null || true
    [ ! -e "$config_file" ] || say "$config_file is not in the default place and was kept."
    # A linked folder stays, even if it is empty.
    if [ -n "$(ls -A "$data" 2>/dev/null)" ]; then
        say "$data has other files, which were kept."
    fi
}

if ! is_ours && [ "$remove" = program ]; then
    say "There is no program in $app."
    exit 0
fi
if [ "$remove" = purge ]; then
    case ${data%/} in
    '' | "${HOME%/}") fail "The data directory is $data, which has other files, too:" \
        "remove the program with --uninstall, and the files that it lists by hand." ;;
    esac
fi
if [ "$remove" = purge ] && [ "$yes" = no ]; then
    is_terminal || fail "--purge removes models and settings: without a terminal to ask on, give --yes."
    say "This removes the program and:"
    list_kept
    confirm "Remove all this?" || fail "Nothing was removed."
fi
if is_ours; then
    take_lock
    stop_units
    stop_services
    kept=$(list_kept 2>&1)
    remove_program
else
    kept=$(list_kept 2>&1)
fi
if [ "$remove" = purge ]; then
    if [ -n "$kept" ]; then
        say "Removing:"
        say "$kept"
    else
        say "There is nothing else to remove."
    fi
    purge
elif [ -n "$kept" ]; then
    say "Kept ('./install.sh --purge' removes them, too):"
    say "$kept"
fi
