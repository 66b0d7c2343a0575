#!/usr/bin/env bash
# Runs every fuzz target of the wire crate for some seconds, one behind the other; fails if an input breaks a property.
#
#   scripts/fuzz.sh [SECONDS_PER_TARGET=30] [TARGET...]
#
# The corpus starts from the recorded conversations and is kept in relay/wire/fuzz/corpus for the next run. An input that
# breaks a property is kept in relay/wire/fuzz/artifacts/<target>; run it again with
#   cd relay/wire/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir . <target> artifacts/<target>/<file>
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-30}"
shift || true
case "$seconds" in
'' | *[!0-9]*)
    echo "usage: $0 [SECONDS_PER_TARGET] [TARGET...]" >&2
    exit 64
    ;;
esac

# cargo-fuzz goes below target/, so that nothing outside of the tree is touched.
tools="${CARGO_TARGET_DIR:-$PWD/target}/tools"
export PATH="$PATH:$tools/bin"
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked --root "$tools"
fi
# The sanitizer's flags are unstable; the stable compiler takes them with this.
export RUSTC_BOOTSTRAP=1

cargo run --quiet -p baton-wire --example fuzz_seeds -- relay/wire/fuzz/corpus

cd relay/wire/fuzz
cargo fuzz build --fuzz-dir .
if [ "$#" -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo fuzz list --fuzz-dir .); fi

failed=()
for target in "${targets[@]}"; do
    echo "== $target: $seconds s"
    log="$(mktemp)"
    if cargo fuzz run --fuzz-dir . "$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 >"$log" 2>&1; then
        grep -E '^stat::(number_of_executed_units|peak_rss_mb)|^#[0-9]+[[:space:]]+DONE' "$log" || true
    else
        tail -n 60 "$log"
        failed+=("$target")
    fi
    rm -f "$log"
done

if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}; the inputs are in relay/wire/fuzz/artifacts" >&2
    exit 1
fi
echo "all ${#targets[@]} targets held"
