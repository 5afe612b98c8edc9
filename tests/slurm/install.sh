#!/usr/bin/env bash
# Installs what tests/slurm needs: SLURM, munge, and slurmdbd with MariaDB for accounting (Debian, Ubuntu; as root, else
# by sudo). Exits with 1, having said why, where they cannot be had; the tests are skipped then.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
command -v slurmctld >/dev/null || missing+=(slurm-wlm)
command -v munged >/dev/null || missing+=(munge)
command -v slurmdbd >/dev/null || missing+=(slurmdbd slurm-wlm-mysql-plugin)
command -v mariadbd >/dev/null || missing+=(mariadb-server-core)
command -v mariadb >/dev/null || missing+=(mariadb-client-core)
if [[ ${#missing[@]} == 0 ]]; then
    exit 0
fi
command -v apt-get >/dev/null || { echo "no SLURM here, and no apt-get to install ${missing[*]}" >&2; exit 1; }
sudo=()
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { echo "no SLURM here, and no root to install ${missing[*]}" >&2; exit 1; }
    sudo=(sudo -n)
fi

# The packages' own services would use the default ports and /etc: they are not to start.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
install() {
    timeout 300 "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Options::=--force-unsafe-io "${missing[@]}"
}
log=$(mktemp)
if ! install >"$log" 2>&1 && ! { "${sudo[@]}" apt-get update -qq && install; } >>"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "apt-get could not install ${missing[*]}: $log" >&2
    exit 1
fi
rm -f "$log"
