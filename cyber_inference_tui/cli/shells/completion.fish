# Completion for cyber-inference-tui and citui in fish.
# Load it with: cyber-inference-tui completion fish | source

function __cyber_inference_tui
    set -l earlier (commandline -opc)
    set -l program $earlier[1]
    set -e earlier[1]
    # An open quote is closed, so that the word can be unquoted.
    set -l current (commandline -ct)
    set current (string unescape -- $current; or string unescape -- $current'"'; or string unescape -- $current"'")[1]
    set -l option (string match -r -- '^--[^=]+=' $current; or echo)
    env _CYBER_INFERENCE_TUI_COMPLETE=fish $program $earlier "$current" 2>/dev/null | while read -l -d \t kind value
        set -l path (string replace -- "$option" '' "$current")
        switch $kind
            case file
                printf '%s\n' $option(__fish_complete_path "$path")
            case dir
                printf '%s\n' $option(__fish_complete_directories "$path")
            case plain
                printf '%s\n' $value
        end
    end
end

complete -c cyber-inference-tui -f -k -a '(__cyber_inference_tui)'
complete -c citui -f -k -a '(__cyber_inference_tui)'
