# shellcheck shell=dash
# The driver's self test: the online part must pass; of the offline part, which takes the interface down, loopback, NVRAM,
# interrupt and link. Its register and memory tests compare write masks that the model does not have everywhere
# (docs/qemu.md).
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
out=$(ethtool -t "$dev" offline) || true
echo "$out"
for test in loopback nvram interrupt link; do
  echo "$out" | grep -q "^${test}_test .*[[:space:]]0\$" || die "offline: ${test}_test failed"
done
wait_for 30 carrier || die "no link after the self test"
# shellcheck disable=SC2119
ping_peer
say passed
