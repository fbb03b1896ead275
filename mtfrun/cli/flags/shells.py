"""Scripts that ask `mtfrun completion SHELL --line=...` at the tab key, by the shell's name."""

from __future__ import annotations

# Bash breaks words at "=" and replaces only what follows.
_BASH = """\
_mtfrun() {
  local line=${COMP_LINE:0:COMP_POINT} IFS=$'\\n' prefix=
  local typed=${line##*[[:space:]]}
  [[ $COMP_WORDBREAKS == *=* && $typed == *=* ]] && prefix=${typed%=*}=
  COMPREPLY=($("$1" completion bash --line="$line" 2>/dev/null))
  COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
}
complete -F _mtfrun mtfrun
"""

_ZSH = """\
_mtfrun() {
  local word
  local -a words_with_space words_without
  for word in ${(f)"$("${words[1]}" completion zsh --line="${LBUFFER}" 2>/dev/null)"}; do
    if [[ $word == *[=/] ]]; then words_without+=("$word"); else words_with_space+=("$word"); fi
  done
  compadd -Q -S '' -a words_without
  compadd -Q -a words_with_space
}
compdef _mtfrun mtfrun
"""

_FISH = """\
complete -c mtfrun -f -a '(mtfrun completion fish --line=(commandline -cp) 2>/dev/null)'
"""

SHELLS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
