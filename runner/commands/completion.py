"""`bridge-runner completion`: prints a shell completion script."""

from __future__ import annotations

import argparse

from runner.commands.typed.verb import Verb

# Bash also splits words at = and :, so we rejoin them and drop what precedes the last split from each completion.
BASH = r"""_bridge_runner() {
    local -a typed=() found=()
    local index word
    for ((index = 1; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if ((${#typed[@]})) && { [[ $word == [=:]* ]] || [[ ${typed[-1]} == *[=:] ]]; }; then
            typed[-1]+=$word
        else
            typed+=("$word")
        fi
    done
    local current=${typed[-1]} cut=
    [[ $COMP_WORDBREAKS == *=* && $current == *=* ]] && cut=${current%"${current##*=}"}
    [[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && cut=${current%"${current##*[=:]}"}
    mapfile -t found < <("${COMP_WORDS[0]/#\~/$HOME}" __complete -- "${typed[@]}" 2>/dev/null)
    COMPREPLY=("${found[@]#"$cut"}")
    # Nothing but a whole word is followed by a blank.
    if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == *[=/.] ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _bridge_runner bridge-runner
"""

ZSH = r"""#compdef bridge-runner
_bridge_runner() {
    local -a found
    found=("${(@f)$("${words[1]/#\~/$HOME}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -z ${found[1]} ]]; then
        _files
        return
    fi
    compadd -S '' -- ${(M)found:#*[=/.]}
    compadd -- ${found:#*[=/.]}
}
if ! (( $+functions[compdef] )); then
    autoload -Uz compinit && compinit
fi
compdef _bridge_runner bridge-runner
"""

FISH = r"""function __bridge_runner_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l current (commandline -ct)
    $program __complete -- $words "$current" 2>/dev/null
end
complete -c bridge-runner -a "(__bridge_runner_complete)"
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `completion`."""
    parser.add_argument("shell", choices=SCRIPTS, metavar="bash|zsh|fish", help="your shell")


def run(typed: argparse.Namespace) -> int:
    """Prints the completion script for a shell."""
    print(SCRIPTS[typed.shell], end="")
    return 0


VERB = Verb(
    name="completion",
    summary="Prints a script that completes verbs, flags, keys, choices, sweeps and runs in a shell.",
    usage="completion bash|zsh|fish",
    examples={
        "completion fish > ~/.config/fish/completions/bridge-runner.fish": "fish",
        "completion bash": 'eval "$(bridge-runner completion bash)", in ~/.bashrc',
        "completion zsh": 'eval "$(bridge-runner completion zsh)", in ~/.zshrc',
    },
    add_arguments=add_arguments,
    run=run,
)
