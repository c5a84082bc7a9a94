# shellcheck shell=dash
# Resets of the chip under verified I/O: MTU 9000 and back, ROUNDS times, and ring sizes. Every change stops and starts the
# chip; cnic and bnx2i fail the connections, iscsid logs in again, and no data may be lost. Environment: see iscsi.sh.
# shellcheck source=lib.sh
. /guest/lib.sh
# shellcheck source=iscsi.sh
. /guest/iscsi.sh
stack_up
record
login
load_up
disturb() {
  say "$*"
  "$@" || die "$*"
  wait_for 20 carrier || die "no link after: $*"
  recovered "$*"
}
rx_ring() { ethtool -g "$dev" | awk '$1 == "RX:" { v = $2 } END { print v }'; }
old=$(rx_ring)
for _ in $(seq "${ROUNDS:-1}"); do
  disturb ip link set "$dev" mtu 9000
  disturb ip link set "$dev" mtu 1500
done
disturb ethtool -G "$dev" rx 100
disturb ethtool -G "$dev" rx "$old"
load_down
for disk in $disks; do verify "$disk" 4 || die "data on $disk after the resets"; done
say "verified; iscsiuio was started anew $restarts times"
logout
stack_down
say "ok"
