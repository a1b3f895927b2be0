# shellcheck shell=bash
# Checks for tests that are shell scripts. To be sourced after scripts/lib.sh; such a script ends with checks_end.

checks_passed=0 checks_failed=0

# verdict 0|1 NAME DETAIL...
verdict() {
    if [ "$1" = 0 ]; then
        checks_passed=$((checks_passed + 1))
        say "ok      $2"
    else
        checks_failed=$((checks_failed + 1))
        say "FAILED  $2"
        printf '        %s\n' "${@:3}"
    fi
}

# check NAME GOT WANTED
check() {
    local same=0
    [ "$2" = "$3" ] || same=1
    verdict "$same" "$1" "got:    $2" "wanted: $3"
}

# check_match NAME GOT REGEX: an extended regular expression.
check_match() {
    local same=0
    grep -qE -- "$3" <<<"$2" || same=1
    verdict "$same" "$1" "got:    $2" "no match for: $3"
}

# skipped NAME WHY: what cannot be tested here is shown at the end of scripts/test.sh, and does not count as passed.
skipped() {
    say "SKIPPED $1: $2"
    mkdir -p "$CARGO_TARGET"
    say "$1: $2" >>"$CARGO_TARGET/test-skips.txt"
}

# checks_end: the line that scripts/test.sh counts, and the exit code.
checks_end() {
    say "test result: ok. $checks_passed passed; $checks_failed failed; 0 ignored"
    [ "$checks_failed" -eq 0 ]
}
