#!/usr/bin/env bash
# Tells in few lines what failed in the output of a tier, a file: the tests by name with
# what they said last, the test that hung and where, or else the output's last lines.
# A digest that the output ends with already is passed on.
set -euo pipefail

log=${1:?usage: hack/failures.sh file [label [bytes]]}
label=${2:-}
most=${3:-2400}

if grep -aq '^==> failures' "$log"; then
  digest=$(sed '1,/^==> failures/d' "$log")
  head -c "$most" <<<"$digest"
  exit
fi

digest=$(awk -v label="$label" '
  # A message is its first three lines; what processes logged is none.
  function begin(line) {
    rest = line ~ /: last lines of / ? -1 : 2
    if (rest > 0) said[test, ++count[test]] = "    " substr(line, 1, 500)
  }
  function go_on(line) {
    if (rest-- > 0) said[test, count[test]] = said[test, count[test]] "\n    " substr(line, 1, 500)
  }
  function last(test,  i) {
    for (i = 1; i <= count[test]; i++) if (i > count[test] - 6 || said[test, i] ~ /SEED/) print said[test, i]
  }
  function flush(package,  i) {
    for (i = 1; i <= failed; i++)
      if (count[name[i]] > 0 || !inner[name[i]]) {
        print package (package == "" ? "" : " ") name[i] " " took[i]
        last(name[i])
      }
    failed = 0; test = ""; delete said; delete count; delete inner
  }
  /^=== (RUN|NAME|CONT) / { test = $3; rest = 0; next }
  /^=== / { next }
  $1 == "---" {
    rest = 0
    if ($2 == "FAIL:") {
      test = $3; name[++failed] = $3; took[failed] = $4
      for (parent = $3; sub(/\/[^\/]*$/, "", parent); ) inner[parent] = 1
    }
    next
  }
  /^panic: / || /^fatal error: / || /^SIGQUIT: / {
    print label (label == "" ? "" : ": ") (test == "" ? "" : test ": ") substr($0, 1, 300); stacks = 1; shown = 0; next
  }
  stacks && /^\t\t?running tests:|^\t\tTest/ { print "  " $1 " " $2; next }
  stacks && /_test\.go:[0-9]+/ && shown < 12 { print "    " $1; shown++; next }
  /^FAIL    / { printf "%s%s\n", before, $0 } # of hack/verify.sh
  { before = previous; previous = substr($0, 1, 300) "\n"; before = before previous }
  /^(ok|FAIL|---|\?)\t/ { stacks = 0; flush($2) ; if ($1 == "FAIL" && /failed\]/) print substr($0, 1, 300); next }
  /^[^ ]+\.go:[0-9]+:[0-9]+: / { if (lint++ < 15) print substr($0, 1, 300); next }
  /^ +[A-Za-z0-9_]+\.go:[0-9]+: / { begin($0); next }
  /^WARNING: DATA RACE/ { begin($0); rest = 14; next }
  /^        / || rest > 2 { go_on($0); next }
  { rest = 0 }
  END { flush(label) }
' <(tr -d '\r' <"$log" | sed 's/\x1b\[[0-9;]*[A-Za-z]//g'))

if [[ -z $digest ]]; then
  digest="${label:+$label }ended so:"$'\n'"$(tail -n 15 "$log" | cut -c 1-300)"
fi
head -c "$most" <<<"$digest"
