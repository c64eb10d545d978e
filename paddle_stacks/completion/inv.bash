# Completion of ./inv in bash: source <(./inv --print-completion-script bash)
# shellcheck shell=bash

_paddle_stacks_inv() {
    local line="${COMP_LINE:0:COMP_POINT}" word
    word="${line##*[[:space:]]}"
    # The typed line: bash splits --option=value. Candidates are whole words.
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" --complete -- "$line" 2>/dev/null)
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    fi
}

# Without candidates, complete file names.
complete -o default -o bashdefault -F _paddle_stacks_inv inv
