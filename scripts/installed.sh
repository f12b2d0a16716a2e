# shellcheck shell=sh disable=SC2154 # the variables of install.sh
# Sourced by install.sh: manage the versions in $app, and find their processes. POSIX sh.
#
#   $app/versions/NAME   environments, each with the whole program in it
#   $app/current         a link to the current version: changing it switches to a new one
#   $app/bin             links into current, the targets of ~/.local/bin and systemd's unit
#   $app/uv, $app/python uv and a Python, if the system's Python is too old
#   $app/.cyber-inference-tui  marks $app as ours, and is locked by a running installation
#   $app/files           files elsewhere, one path a line: completions, the manual page
#
# In earlier versions $app itself was the environment: it is removed once nothing runs it.

unit=cyber-inference-tui.service
former='lib lib64 include share pyvenv.cfg .installed .gitignore'

is_ours() {
    [ -f "$app/.cyber-inference-tui" ] ||
        { [ -f "$app/pyvenv.cfg" ] && [ -e "$app/bin/python" ]; }
}

# take_lock: allow one installation at a time, until the end of this process.
take_lock() {
    exec 9>>"$app/.cyber-inference-tui" || fail "$app cannot be written."
    # Any Python can take the lock, which belongs to the open file and so stays ours.
    lock='import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)'
    waited=0
    while :; do
        if command -v flock >/dev/null 2>&1; then
            flock -n 9 && return
        elif command -v python3 >/dev/null 2>&1; then
            python3 -c "$lock" 2>/dev/null && return
        else
            return
        fi
        [ $waited != 0 ] || say "waiting for another installation in $app"
        [ $waited -lt 900 ] || fail "The other installation in $app did not end in 15 minutes."
        waited=$((waited + 1))
        sleep 1
    done
}

# pids_with TEXT...: print the processes that run or have loaded a file with TEXT in its path.
pids_with() {
    if [ -d /proc/self ]; then
        # On standard input, so that grep does not find itself.
        # shellcheck disable=SC2062 # files, not a pattern
        printf '%s\n' "$@" | grep -lsF -f - -- /proc/[0-9]*/cmdline /proc/[0-9]*/maps 2>/dev/null |
            cut -d / -f 3 | sort -nu
    else
        for text in "$@"; do
            ps -A -o pid= -o command= | awk -v text="$text" 'index($0, text) { print $1 }'
        done | sort -nu
    fi
}

# paths_of DIR: print the path as given, and as the kernel names it.
paths_of() {
    printf '%s\n' "$1"
    real=$(CDPATH='' cd -P -- "$1" 2>/dev/null && pwd -P) && [ "$real" != "$1" ] &&
        printf '%s\n' "$real"
    return 0
}

# pids_below DIR SUFFIX...: print the processes that run files in DIR with one of the suffixes.
pids_below() {
    below=$1
    shift
    paths_of "$below" | while IFS= read -r path; do
        for suffix in "$@"; do pids_with "$path$suffix"; done
    done | sort -nu
}

command_line() {
    if [ -r "/proc/$1/cmdline" ]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    else
        ps -o command= -p "$1"
    fi
}

# services_of PID...: print the pids of services.
services_of() {
    for pid in "$@"; do
        case "$(command_line "$pid" 2>/dev/null) " in
        *cyber*' serve '* | *cyber*' --no-ui '*) printf '%s\n' "$pid" ;;
        esac
    done
}

# pids_of_former: print the processes of versions other than the current one.
pids_of_former() {
    [ ! -f "$app/pyvenv.cfg" ] || pids_below "$app" /lib/ /bin/python
    now=$(readlink "$app/current" || true)
    for version in "$app"/versions/*; do
        [ ! -d "$version" ] || [ "versions/${version##*/}" = "$now" ] || pids_below "$version" /
    done
}

# clean_up_versions: remove former versions and the remains of an interrupted run. A version that
# still runs stays, because Python reads some modules only on use.
clean_up_versions() {
    now=$(readlink "$app/current" || true)
    for version in "$app"/versions/*; do
        if [ "versions/${version##*/}" != "$now" ] && [ -z "$(pids_below "$version" /)" ]; then
            rm -rf "$version"
        fi
    done
    if [ -L "$app/current" ] && [ -f "$app/pyvenv.cfg" ] &&
        [ -z "$(pids_below "$app" /lib/ /bin/python)" ]; then
        remove_former
    fi
}

# remove_former: remove the environment of earlier versions in $app itself.
remove_former() {
    for name in $former; do rm -rf "${app:?}/$name"; done
    for file in "$app"/bin/*; do
        case $(readlink "$file" || true) in
        ../current/bin/*) ;;
        *) rm -f "$file" ;;
        esac
    done
}

# switch_to NAME: point $app/current to that version, atomically.
switch_to() {
    rm -f "$app/.current"
    ln -s "versions/$1" "$app/.current"
    # mv would move the link into the directory that current points to.
    "$app/versions/$1/bin/python" -c 'import os, sys; os.replace(*sys.argv[1:])' \
        "$app/.current" "$app/current"
}

# link_programs: link the programs of the current version into $app/bin and ~/.local/bin.
link_programs() {
    mkdir -p "$app/bin"
    for name in $names; do
        if [ ! -x "$app/current/bin/$name" ]; then
            unlink_program "$name"
            continue
        fi
        put_link "../current/bin/$name" "$app/bin/$name"
        link=${HOME:+$HOME/.local/bin/$name}
        if [ -z "$link" ]; then
            continue
        elif [ -e "$link" ] && [ ! -L "$link" ]; then
            say "$link exists and is not a link; it was left unchanged."
        elif [ -e "$link" ] && [ "$name" = citui ] &&
            [ ! -e "$(dirname -- "$(readlink "$link")")/cyber-inference-tui" ]; then
            say "$link exists and is a link to another program; it was left unchanged."
        elif ! { mkdir -p "$HOME/.local/bin" && put_link "$app/bin/$name" "$link"; } 2>/dev/null; then
            say "$link cannot be made: run $app/bin/$name."
        fi
    done
}

# put_link TARGET LINK: replace LINK atomically.
put_link() {
    [ "$(readlink "$2" || true)" != "$1" ] || return 0
    rm -f "$2.new" && ln -s "$1" "$2.new" && mv -f "$2.new" "$2"
}

unlink_program() {
    link=${HOME:+$HOME/.local/bin/$1}
    if [ -n "$link" ] && [ "$(readlink "$link" || true)" = "$app/bin/$1" ]; then rm -f "$link"; fi
    rm -f "$app/bin/$1"
}

# put_file TARGET: write standard input to a file that --uninstall removes, unless it is empty.
put_file() {
    content=$(cat && printf x)
    [ "$content" != x ] || return 0
    if [ -e "$1" ] && ! grep -qxF -- "$1" "$app/files" 2>/dev/null; then
        say "$1 exists; it was left unchanged."
        return 0
    fi
    mkdir -p "$(dirname -- "$1")" 2>/dev/null &&
        printf %s "${content%x}" 2>/dev/null >"$1" || return 0
    grep -qxF -- "$1" "$app/files" 2>/dev/null || printf '%s\n' "$1" >>"$app/files"
}

# put_extras: install shell completions and the manual page; failures do not matter.
put_extras() {
    [ -n "${HOME:-}${XDG_DATA_HOME:-}" ] || return 0
    for shell in bash zsh fish; do
        script=$("$program" completion $shell 2>/dev/null </dev/null) || continue
        # bash and fish look for a file with the name of the command.
        for name in $names; do
            case $shell-$name in
            bash-*) file=$share/bash-completion/completions/$name ;;
            zsh-cyber-inference-tui) file=$share/zsh/site-functions/_$name ;;
            fish-*) file=$share/fish/vendor_completions.d/$name.fish ;;
            *) continue ;;
            esac
            printf '%s\n' "$script" | put_file "$file"
        done
    done
    for name in $names; do
        page=$root/docs/man/$name.1
        [ ! -f "$page" ] || put_file "$share/man/man1/$name.1" <"$page"
    done
}

# unit_pid SCOPE: print the pid of systemd's unit, --user or --system; nothing if it does not run.
unit_pid() {
    systemctl "$1" show --property=MainPID "$unit" 2>/dev/null | sed -n 's/^MainPID=0*//p'
}

is_terminal() { [ -t 0 ] && [ -t 2 ]; }

# confirm QUESTION
confirm() {
    printf '%s [y/N] ' "$1" >&2
    read -r answer || answer=''
    case $answer in [yY] | [yY][eE][sS]) ;; *) return 1 ;; esac
}

# data_dir_of PID: print a service's data directory, in which it holds a lock.
data_dir_of() {
    for file in /proc/"$1"/fd/*; do
        case $(readlink "$file" 2>/dev/null) in
        */service.lock)
            dirname -- "$(readlink "$file")"
            return
            ;;
        esac
    done
}

# quoted TEXT: quote it for a shell.
quoted() {
    case $1 in
    *[!A-Za-z0-9_./:=@%+,-]* | '') printf "'%s'\n" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s\n' "$1" ;;
    esac
}

# offer_restart: name the services that still run a former version, and offer to restart them.
offer_restart() {
    # shellcheck disable=SC2046 # pids
    for pid in $(services_of $(pids_of_former)); do
        say "A service (pid $pid) still runs the former version."
        if [ "$(unit_pid --user)" = "$pid" ]; then
            set -- systemctl --user restart "$unit"
        elif [ "$(unit_pid --system)" = "$pid" ]; then
            set -- systemctl restart "$unit"
            [ "$(id -u)" = 0 ] || set -- sudo "$@"
        else
            case "$(command_line "$pid") " in
            *' --background '*) ;;
            *)
                say "To run the new version, stop it and start it again where it was started."
                continue
                ;;
            esac
            data=$(data_dir_of "$pid")
            set -- "$program" ${data:+--data-dir "$data"} service restart
        fi
        shown=''
        for word in "$@"; do shown="$shown $(quoted "$word")"; done
        if is_terminal && confirm "Restart it now? Requests in flight may finish first."; then
            "$@" >&2 9>&- || say "It could not be restarted; try it yourself:$shown"
        else
            say "To run the new version:$shown"
        fi
    done
}
