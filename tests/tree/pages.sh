#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# pages.sh PAGES COMPLETIONS: the man pages and completions that the build made name every
# command of `mrun --help`, and every section, kind and error of `mrun explain`; no marker is
# left; man and the shells that are here read them without complaint.
set -euo pipefail
pages=$1 shells=$2 mrun=${MRUN_EXE:?run through meson test}
bad=0
miss() { echo "$*" >&2; bad=1; }
holds() { grep -qF -- "$2" "$1" || miss "$1 does not name $2"; }

commands=$("$mrun" --help | sed -n '/^commands:/,/^options:/s/^  \([a-z][a-z-]*\) .*/\1/p')
topics=$("$mrun" explain | sed -n '/^sections/,/^errors/s/^  \([a-z]*\) .*/\1/p')
errors=$("$mrun" explain | sed -n 's/^  \(E[0-9]*\) .*/\1/p')
[ "$(wc -w <<<"$commands")" -gt 5 ] && [ "$(wc -w <<<"$topics")" -gt 10 ] || miss "the tables are not read right"
for c in $commands; do
  holds "$pages/mrun.1" "mrun ${c//-/\\-}"
  for s in mrun _mrun mrun.fish; do holds "$shells/$s" "$c"; done
done
for t in $topics; do
  holds "$pages/mrun.ini.5" "[$t]"
  for key in $("$mrun" explain "$t" | sed -n 's/^  \([a-z_0-9]*\) .*= .*/\1/p'); do
    holds "$pages/mrun.ini.5" "$key"
    holds "$shells/mrun" "$t.$key"
  done
done
for e in $errors; do holds "$pages/mrun.1" "$e"; done
! grep -n '@[A-Z_]*@' "$pages"/*.[157] "$shells"/*mrun* || miss "a marker is left"

# bash: offers commands, keys after --set, options of a command (grep reads to the end: an early
# end would break the pipe)
offers() { # WORD WORDS... : the last word is the one to complete
  bash -c 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _mrun
    printf "%s\n" "${COMPREPLY[@]}"' - "$shells/mrun" mrun "$@"
}
offers pl | grep -x plan >/dev/null || miss "bash: pl does not give plan"
offers x.ini --set train.st | grep -x train.steps= >/dev/null || miss "bash: --set train.st does not give train.steps="
offers generate --pro | grep -x -- --prompt >/dev/null || miss "bash: generate --pro does not give --prompt"
offers explain E02 | grep -x E0203 >/dev/null || miss "bash: explain E02 does not give E0203"
if command -v zsh >/dev/null; then zsh -n "$shells/_mrun" || bad=1; fi
if command -v fish >/dev/null; then fish -n "$shells/mrun.fish" || bad=1; fi
if command -v man >/dev/null && command -v groff >/dev/null; then
  for p in "$pages"/*.[157]; do
    said=$(MANWIDTH=100 man --warnings -l "$p" 2>&1 >/dev/null) || true
    [ -z "$said" ] || miss "$p: $said"
  done
fi
exit $bad
