# Completion of `buoy` for fish: the commands and options that the command's own help names.
function __buoy_ask
    # The commands, or with a command its options, a line each: NAME, a tab, what it takes.
    buoy $argv --help 2>/dev/null </dev/null |
        string replace -rf '^  (-{0,2}[a-z][a-z-]*)(?: (\S+))?(?: .*)?$' '$1\t$2'
end

function __buoy_command
    set -l words (commandline -opc)
    test (count $words) -ge 2; and echo $words[2]
end

function __buoy_values
    set -l words (commandline -opc)
    for line in (__buoy_ask $words[2])
        set -l parts (string split \t -- $line)
        if test "$parts[1]" = "$words[-1]"
            string split '|' -- $parts[2] | string match -rv '[A-Z]'
            string match -rq 'FILE|PATH' -- $parts[2]; and __fish_complete_path (commandline -ct)
        end
    end
end

function __buoy_takes_value
    set -l words (commandline -opc)
    test (count $words) -ge 3; or return 1
    for line in (__buoy_ask $words[2])
        set -l parts (string split \t -- $line)
        test "$parts[1]" = "$words[-1]" -a -n "$parts[2]"; and return 0
    end
    return 1
end

# The words so far are options and their values alone.
function __buoy_wants_option
    test -n "$(__buoy_command)"; and not contains -- -- (commandline -opc)
    and not __buoy_takes_value
end

complete -c buoy -f
complete -c buoy -n 'test -z "$(__buoy_command)"' -a '(__buoy_ask) --help --version'
complete -c buoy -n __buoy_takes_value -a '(__buoy_values)'
complete -c buoy -n __buoy_wants_option -a '(__buoy_ask (__buoy_command) | string match -- "-*")'
complete -c buoy -n '__buoy_wants_option; and test "$(__buoy_command)" = run' -a '(__fish_complete_command)'
complete -c buoy -n 'contains -- -- (commandline -opc)' -a '(__fish_complete_subcommand --commandline (string split " " -- (string replace -r ".* -- " "" -- (commandline -cp))))'
