"""Completion scripts for shells, made of an argparse parser with subcommands."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_STUDY, _MODEL = ("study", "source"), ("model", "source")  # destinations that name a study, a model


@dataclass(frozen=True)
class Argument:
    """An option, or a positional argument where it has no flags.

    Attributes:
        takes_value: whether a word belongs to it.
        choices: what that word is, or may be.
        study, file: whether it may name a study or a file.
    """

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    study: bool
    file: bool


@dataclass(frozen=True)
class Grammar:
    """Every command's summary and arguments, by name and alias."""

    summaries: Mapping[str, str]
    commands: Mapping[str, Sequence[Argument]]


def grammar(parser: argparse.ArgumentParser) -> Grammar:
    """What `parser` takes."""
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    commands = {
        name: [_argument(action) for action in subparser._actions if action.help != argparse.SUPPRESS]
        for name, subparser in subparsers.choices.items()
    }
    return Grammar({name: subparser.description or "" for name, subparser in subparsers.choices.items()}, commands)


def _argument(action: argparse.Action) -> Argument:
    takes_value = action.nargs != 0
    choices = tuple(map(str, action.choices or (("tiny",) if action.dest in _MODEL else ())))
    study = action.dest in _STUDY
    # A word as it is, a path, or a set with its weight may be a file; what is parsed into a number is none.
    of_text = action.type in (None, str, Path) or getattr(action.type, "__name__", "") == "weighted_set"
    file = takes_value and of_text and not action.choices and action.dest != "study"
    text = " ".join((action.help or "").replace("%%", "%").split())
    return Argument(tuple(action.option_strings), text, takes_value, choices, study, file)


def bash_script(known: Grammar) -> str:
    """For bash 3.2 and later."""
    cases = []
    for command, arguments in known.commands.items():
        options = [argument for argument in arguments if argument.flags]
        lines = [f"    {command})", "      case $prev in"]
        lines += [f"        {'|'.join(o.flags)}) {_bash_reply(o)} ;;" for o in options if o.takes_value]
        flags = " ".join(flag for option in options for flag in option.flags)
        lines += ["        *)", f'          if [[ $cur == -* ]]; then _autoreap_reply "{flags}"']
        lines += [f"          else {_bash_reply(_positional(arguments))}", "          fi ;;", "      esac ;;"]
        cases += lines
    return _BASH.format(commands=" ".join(known.commands), cases="\n".join(cases))


def _positional(arguments: Sequence[Argument]) -> Argument:
    """All positional arguments as one: which of them a word is, depends on how many options take a word before it."""
    found = [argument for argument in arguments if not argument.flags]
    choices = tuple(choice for argument in found for choice in argument.choices)
    return Argument((), "", bool(found), choices, any(a.study for a in found), any(a.file for a in found))


def _bash_reply(argument: Argument) -> str:
    words = [*argument.choices, *["$(_autoreap_studies)"] * argument.study]
    return f'_autoreap_reply "{" ".join(words)}"{" files" * argument.file}'


_BASH = """\
_autoreap_reply() {{
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "${{1// /$'\\n'}}" -- "$cur"))
  if [[ $2 ]]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY+=($(compgen -f -- "$cur"))
  fi
}}
_autoreap_studies() {{
  "${{COMP_WORDS[0]}}" completion studies 2>/dev/null # of the one that is typed, which $PATH may not know
}}
_autoreap() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
  COMPREPLY=()
  if (( COMP_CWORD == 1 )); then
    _autoreap_reply "{commands} --help --version"
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
}}
complete -F _autoreap autoreap"""


def zsh_script(known: Grammar) -> str:
    """For a file `_autoreap` in a folder of $fpath."""
    commands = "\n".join(f"    {_quoted(f'{name}:{text}')}" for name, text in known.summaries.items())
    cases = []
    for command, arguments in known.commands.items():
        options = [argument for argument in arguments if argument.flags]
        specs = [_quoted(_zsh_option(flag, option)) for option in options for flag in option.flags]
        words = _quoted(f"*:word:{_zsh_value(_positional(arguments))}")  # there can be one rule for the rest
        cases.append(f"    {command}) _arguments {' '.join([*specs, words])} ;;")
    return _ZSH.format(commands=commands, cases="\n".join(cases))


def _zsh_option(flag: str, option: Argument) -> str:
    text = _zsh_text(option.help)
    return f"*{flag}[{text}]:{text}:{_zsh_value(option)}" if option.takes_value else f"{flag}[{text}]"


def _zsh_value(argument: Argument) -> str:
    """An action of `_arguments`; after a space it is called with the words that follow and no others."""
    if argument.study:
        return f" _autoreap_studies{' files' * argument.file}"
    if argument.file:
        return f" _autoreap_words files {' '.join(argument.choices)}" if argument.choices else "_files"
    return f"({' '.join(argument.choices)})" if argument.choices else " "


def _zsh_text(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_ZSH = """\
#compdef autoreap
_autoreap_words() {{ # "files" or nothing, then words
  local -a kinds=("words:word:(${{*:2}})")
  [[ $1 ]] && kinds+=('files:file:_files')
  _alternative $kinds
}}
_autoreap_studies() {{
  _autoreap_words "$1" ${{(f)"$(${{~program}} completion studies 2>/dev/null)"}}
}}
_autoreap() {{
  local program=$words[1] # the one that is typed, which $PATH may not know
  local -a commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
{cases}
  esac
}}
if [[ $funcstack[1] == _autoreap ]]; then
  _autoreap "$@" # loaded by the first press of the key
else
  compdef _autoreap autoreap
fi"""


def fish_script(known: Grammar) -> str:
    """For `~/.config/fish/completions/autoreap.fish`."""
    lines = [_FISH]
    for command, summary in known.summaries.items():
        lines.append(f"complete -c autoreap -n __autoreap_command -a {command} -d {_fish_quoted(summary)}")
    for command, arguments in known.commands.items():
        start = f"complete -c autoreap -n '__autoreap_command {command}'"
        for argument in arguments:
            flags = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags]
            needs = ["-r -F" if argument.file else "-x"] if argument.takes_value and flags else ["-F"] * argument.file
            words = [*argument.choices, *["(__autoreap_studies)"] * argument.study]
            offered = [f"-a {_fish_quoted(' '.join(words))}"] * bool(words)
            if flags or words or argument.file:
                lines.append(" ".join([start, *flags, *needs, *offered, f"-d {_fish_quoted(argument.help)}"]))
    return "\n".join(lines)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_FISH = """\
function __autoreap_command # whether the command is $argv, or has still to be typed where that is empty
  set -l words (commandline -opc)
  test "$words[2]" = "$argv"
end
function __autoreap_studies
  set -l words (commandline -opc)
  command -q $words[1]; and $words[1] completion studies 2>/dev/null # the one that is typed may not be on $PATH
end
complete -c autoreap -f"""

SCRIPTS: Mapping[str, Callable[[Grammar], str]] = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
