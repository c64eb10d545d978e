# Completion of ./inv in fish: ./inv --print-completion-script fish | source

function __paddle_stacks_inv
    set --local line (commandline --current-process --cut-at-cursor)
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    set --local candidates ($words[1] --complete -- "$line" 2>/dev/null)
    if set --query candidates[1]
        string join \n -- $candidates
    else
        __fish_complete_path (commandline --current-token)
    end
end

complete --command inv --no-files --arguments '(__paddle_stacks_inv)'
