# Completion for cyber-inference-tui and citui in bash 4.4 or newer.
# Load it with: eval "$(cyber-inference-tui completion bash)"

_cyber_inference_tui() {
    local kind value IFS=' ' program=${1-} line=${COMP_LINE-}
    program=$(type -P -- "${program/#\~/$HOME}") || program=cyber-inference-tui
    # The line says where there are spaces; COMP_WORDS is also split at every ":" and "=".
    line=${line:0:${COMP_POINT:-0}}
    [[ -n $line ]] || line=${COMP_WORDS[*]:0:COMP_CWORD+1}
    COMPREPLY=()
    while IFS=$'\t' read -r kind value; do
        case $kind in
        file) compopt -o default ;;
        dir) compopt -o dirnames ;;
        plain) COMPREPLY+=("$value") ;;
        esac 2>/dev/null
    done < <(_CYBER_INFERENCE_TUI_COMPLETE=bash "$program" "$line" "$COMP_WORDBREAKS" 2>/dev/null)
}

complete -o nosort -F _cyber_inference_tui cyber-inference-tui citui
