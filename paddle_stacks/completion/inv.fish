# Completion of ./inv in fish: ./inv --print-completion-script fish | source

function __paddle_stacks_inv
    set --local words (commandline --tokenize --cut-at-cursor) (commandline --current-token --cut-at-cursor)
    $words[1] --complete -- (string join ' ' -- $words) 2>/dev/null
end

# Nothing found: the names of files.
complete --command inv --arguments '(__paddle_stacks_inv)'
