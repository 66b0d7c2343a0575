#!/usr/bin/env bash
# Everything that must hold: formatting, lints, unit tests, end-to-end tests against real servers. Runs all steps, then sums up.
set -uo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
summary=() failed=0

# step NAME COMMAND...: runs it, remembers how it went.
step() {
    local name=$1 began=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    if "$@"; then
        summary+=("$(printf 'ok      %-8s %4d s' "$name" $((SECONDS - began)))")
    else
        summary+=("$(printf 'FAILED  %-8s %4d s' "$name" $((SECONDS - began)))")
        failed=1
        return 1
    fi
}
tests() { "$cargo" test --locked --workspace --no-fail-fast 2>&1 | tee "$log"; }

step format "$cargo" fmt --all --check
step lints "$cargo" clippy --locked --workspace --all-targets -- -D warnings
step chart scripts/chart-tests.sh
step build "$cargo" build --locked -p baton-relay --bins && step tests tests

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 } END { printf "tests: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
grep -hE '^test .* \.\.\. FAILED$' "$log" | sed 's/^test /  failed: /; s/ \.\.\. FAILED$//' || true
[ "$failed" -eq 0 ] && echo "all good" || echo "NOT good: kept test beds are named above and lie in target/testbed/run"
exit "$failed"
