#compdef cyber-inference-tui citui
# Completion for cyber-inference-tui and citui in zsh.
# Load it after compinit with: eval "$(cyber-inference-tui completion zsh)"

_cyber_inference_tui() {
    local kind value help current=${(Q)PREFIX}
    local -a values lines
    local -a earlier=("${(@Q)words[2,CURRENT-1]}")
    (( CURRENT > 2 )) || earlier=()
    while IFS=$'\t' read -r kind value help; do
        case $kind in
        (file|dir)
            compset -P '--*='
            if [[ $kind == dir ]]; then _files -/; else _files; fi
            return
            ;;
        (plain)
            values+=("$value")
            lines+=("$value${help:+  -- $help}")
            ;;
        esac
    done < <(_CYBER_INFERENCE_TUI_COMPLETE=zsh ${~words[1]} "${earlier[@]}" "$current" 2>/dev/null)
    (( $#values )) && compadd -U -V cyber-inference-tui -l -d lines -a values
}

compdef _cyber_inference_tui cyber-inference-tui citui
# Found in $fpath as _cyber-inference-tui, this file is run by the first TAB.
[[ $zsh_eval_context[-1] != loadautofunc ]] || _cyber_inference_tui "$@"
