#!/usr/bin/env bash
# Installs what building, testing and the demo need, by package name, on Debian and Ubuntu. Instant when all is there.
# Installs no package that starts a service, and forbids service starts while it installs.
set -euo pipefail

missing=() packages=()
# need WHAT PACKAGES CHECK...: notes the packages if the check fails.
need() {
    local what=$1 names=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$what")
        # shellcheck disable=SC2206
        packages+=($names)
    fi
}
has() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1"; }
# Older servers of this series may damage their own rollback segments when they recover from a kill (MDEV-36845), and then abort at every start.
oldest=10.11.18
recovers() {
    local version
    version=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" mariadbd --no-defaults --version | sed -n 's/.*Ver \([0-9.]*\).*/\1/p')
    [ "$(printf '%s\n' "$oldest" "$version" | sort -V | head -n 1)" = "$oldest" ]
}

need "a C compiler and linker" "gcc libc6-dev" has cc
need "a C++ compiler" "g++" has c++
need "C library headers" "libc6-dev" test -e /usr/include/stdio.h
need "pkg-config" "pkg-config" has pkg-config
need "OpenSSL headers" "libssl-dev" pkg-config --exists openssl
need "mariadbd" "mariadb-server-core" has mariadbd
need "mariadb-install-db" "mariadb-server-core" has mariadb-install-db
stale=
if has mariadbd >/dev/null && ! recovers; then
    stale=yes
    need "mariadbd $oldest or newer" "mariadb-server-core mariadb-client mariadb-backup" false
fi
need "mariadb" "mariadb-client" has mariadb
need "mariadb-binlog" "mariadb-client" has mariadb-binlog
need "sysbench" "sysbench" has sysbench
need "setpriv" "util-linux" has setpriv
need "protoc" "protobuf-compiler" has protoc
need "protobuf's own definitions" "libprotobuf-dev" test -e /usr/include/google/protobuf/empty.proto
need "etcd" "etcd-server" has etcd
need "etcdctl" "etcd-client" has etcdctl
need "mariadb-backup" "mariadb-backup" has mariadb-backup
need "ip" "iproute2" has ip
need "nft" "nftables" has nft
need "arping" "iputils-arping" has arping
need "mkfs.ext4" "e2fsprogs" has mkfs.ext4
need "libfaketime" "libfaketime" compgen -G "/usr/lib/*/faketime/libfaketime.so.1"
need "haproxy" "haproxy" has haproxy
need "promtool" "prometheus" has promtool
need "Python with venv" "python3-venv" python3 -c "import ensurepip, venv"

if [ ${#missing[@]} -gt 0 ]; then
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    echo "deps: missing: $(IFS=,; echo "${missing[*]}" | sed 's/,/, /g')"
    echo "deps: packages: ${packages[*]}"
    if ! has apt-get >/dev/null; then
        echo "deps: this is no Debian or Ubuntu system: install the above by hand" >&2
        exit 1
    fi
    root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! has sudo >/dev/null; then
            echo "deps: neither root nor sudo: run as root: apt-get install --no-install-recommends ${packages[*]}" >&2
            exit 1
        fi
        root=(sudo)
    fi
    as_root() { "${root[@]}" "$@"; }
    # The packages are chosen so that none starts a service; what they might pull in is kept from it by the standard policy hook.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        trap 'as_root rm -f "$policy"' EXIT
    fi
    install() {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}"
    }
    update() { echo "deps: apt-get update" && as_root apt-get update -q -o DPkg::Lock::Timeout=300; }
    known() {
        local name
        # What is installed may be the newest of an old package list.
        [ -z "$stale" ] || return 1
        for name in "${packages[@]}"; do
            apt-cache show --no-all-versions "$name" >/dev/null 2>&1 || return 1
        done
    }
    echo "deps: installing with apt-get"
    known || update
    # Old package lists name files that are gone: fetch the lists anew and try once more.
    install || { update && install; }
    echo "deps: installed"
    recovers || echo "deps: warning: the newest mariadbd to be had is older than $oldest: servers that are killed may not start again (MDEV-36845)"
fi

for tool in fmt clippy; do
    if ! cargo "$tool" --version >/dev/null 2>&1; then
        component=$([ "$tool" = fmt ] && echo rustfmt || echo clippy)
        echo "deps: cargo $tool is missing: rustup component add $component"
        rustup component add "$component"
    fi
done
