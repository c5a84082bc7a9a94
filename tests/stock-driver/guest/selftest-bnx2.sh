# shellcheck shell=dash
# The driver's self test, online and offline (registers, memories, loopback, NVRAM, interrupt, link; it takes the interface down).
. /guest/lib.sh

load_bnx2
address
link_up
# shellcheck disable=SC2119
ping_peer
say "self test, online"
out=$(ethtool -t "$dev" online) || die "ethtool -t $dev online: $out"
echo "$out"
say "self test, offline"
out=$(ethtool -t "$dev" offline) || die "ethtool -t $dev offline: $out"
echo "$out"
wait_for 30 carrier || die "no link after the self test"
# shellcheck disable=SC2119
ping_peer
say passed
