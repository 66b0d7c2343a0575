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
# Hosts are network namespaces, which need root: an ordinary user is root of a user namespace while the tests run. `ip netns` keeps its names below /run.
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    # shellcheck disable=SC2016
    as_root=(unshare --user --map-root-user --mount -- sh -c 'mount -t tmpfs tmpfs /run && exec "$@"' sh)
fi
# What is tested is what the image has. The same packages and features in each step, so that nothing is built twice.
image=(--locked --workspace --features baton-failover/kubernetes)
tests() { "${as_root[@]}" "$cargo" test "${image[@]}" --no-fail-fast 2>&1 | tee "$log"; }

step format "$cargo" fmt --all --check
step lints "$cargo" clippy --locked --workspace --all-targets -- -D warnings
step image "$cargo" clippy "${image[@]}" --all-targets -- -D warnings
step chart scripts/chart-tests.sh
step build "$cargo" build "${image[@]}" --bins && step tests tests

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 } END { printf "tests: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
# Each failed test with the first line of why: the rest is far above.
awk '
    /^thread .* panicked at / { name = $2; gsub(/\047/, "", name); getline; if (!(name in why)) why[name] = substr($0, 1, 1000); next }
    /^test .* \.\.\. FAILED$/ { failed[++count] = $2 }
    END { for (i = 1; i <= count; i++) printf "  failed: %s\n    %s\n", failed[i], why[failed[i]] }
' "$log"
[ "$failed" -eq 0 ] && echo "all good" || echo "NOT good: kept test beds are named above and lie in target/testbed/run"
exit "$failed"
