# Completion of `buoy` for bash. What there is to choose from is what the command's own help says, so this
# knows the options of whichever buoy is installed.

# The commands, or with a command its options, a line each: NAME, then what it takes (`auto|none|PATH`).
_buoy_ask() {
  local buoy=$1
  shift
  "$buoy" "$@" --help 2>/dev/null </dev/null |
    sed -nE 's/^  (-?-?[a-z][a-z-]*)( ([^ ]+))?( .*)?$/\1 \3/p'
}

# What the option takes, out of the lines above.
_buoy_value_of() {
  local option value
  while read -r option value; do
    [[ $option == "$1" ]] && echo "$value"
  done
}

_buoy() {
  local current=${COMP_WORDS[COMP_CWORD]} buoy=${COMP_WORDS[0]} command=${COMP_WORDS[1]}
  local files=()
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    # shellcheck disable=SC2207
    COMPREPLY=($(compgen -W "$(_buoy_ask "$buoy" | cut -d' ' -f1) --help --version" -- "$current"))
    return
  fi
  local options value="" at=2 word
  options=$(_buoy_ask "$buoy" "$command")
  # Up to the word before this one: the words of buoy, in which an option takes the word behind it.
  while ((at < COMP_CWORD)); do
    word=${COMP_WORDS[at]}
    [[ $word == -- ]] && { at=$((at + 1)); break; }
    [[ $word == -* ]] || break
    value=$(_buoy_value_of "$word" <<<"$options")
    # `--name=value` comes as three words.
    [[ ${COMP_WORDS[at + 1]} == = ]] && at=$((at + 1))
    [[ -n $value ]] && at=$((at + 1))
    at=$((at + 1))
  done
  if ((at > COMP_CWORD)); then  # the value of an option
    [[ $current == = ]] && current=""
    # shellcheck disable=SC2207
    COMPREPLY=($(compgen -W "$(tr '|' '\n' <<<"$value" | grep -v '[A-Z]')" -- "$current"))
    if [[ $value == *FILE* || $value == *PATH* ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t files < <(compgen -f -- "$current")
      COMPREPLY+=("${files[@]}")
    fi
  elif ((at == COMP_CWORD)) && [[ $current == -* && ${COMP_WORDS[at - 1]} != -- ]]; then
    # shellcheck disable=SC2207
    COMPREPLY=($(compgen -W "$(cut -d' ' -f1 <<<"$options" | grep '^-')" -- "$current"))
  elif [[ $command == run ]]; then  # the program, and its own words
    if declare -F _command_offset >/dev/null; then
      _command_offset "$at"
    else
      # shellcheck disable=SC2207
      COMPREPLY=($(compgen -c -f -- "$current"))
    fi
  fi
}
complete -F _buoy buoy
