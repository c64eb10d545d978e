# Completion of ./inv in zsh: source <(./inv --print-completion-script zsh)

_paddle_stacks_inv() {
    local -a candidates
    candidates=("${(@f)$("${words[1]}" --complete -- "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${candidates[1]}" ]]; then
        compadd -a candidates
    else
        _files
    fi
}

(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _paddle_stacks_inv inv
