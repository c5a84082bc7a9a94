# shellcheck shell=dash
# One life of the stock drivers: probe, link, ping, ethtool, MTU and ring changes, ISCSI_INIT, ten times down and
# up, unload, load again in another order, unload with the interface up.
# shellcheck source=lib.sh
. /guest/lib.sh

say "load bnx2"
load_bnx2
ethtool -i "$dev" || die "ethtool -i"
address
link_up
say "ping"
ping_peer
ping_peer 1400

say "ethtool"
stat() { ethtool -S "$dev" | awk -v n="$1:" '$1 == n { print $2 }'; }
counted() { [ "$(stat "$1")" -ge 6 ]; }
ethtool -S "$dev" >/dev/null || die "ethtool -S"
# six pings and their answers; the chip writes its counters about once per second
wait_for 5 counted tx_ucast_packets && wait_for 5 counted rx_ucast_packets ||
  die "ethtool -S: tx_ucast_packets $(stat tx_ucast_packets), rx_ucast_packets $(stat rx_ucast_packets)"
rx_ring() { ethtool -g "$dev" | awk '$1 == "RX:" { v = $2 } END { print v }'; }
old=$(rx_ring)
[ -n "$old" ] || die "ethtool -g"
for size in 100 "$old"; do
  ethtool -G "$dev" rx "$size" || die "ethtool -G rx $size"
  [ "$(rx_ring)" = "$size" ] || die "ethtool -g says $(rx_ring), not $size"
  link_up
  ping_peer
done

say "load cnic and bnx2i"
n=$(init_count)
load_cnic
iscsi_up "$n"
for h in /sys/class/iscsi_host/host*; do echo "${h##*/}: $(cat "$h/netdev") $(cat "$h/hwaddress")"; done

say "MTU"
for mtu in 9000 1500; do
  n=$(init_count)
  ip link set "$dev" mtu "$mtu" || die "mtu $mtu"
  link_up
  ping_peer # at 9000 only short frames fit the first ring; longer ones need the page ring
  iscsi_up "$n"
done
ping_peer 1400

say "ten times down and up"
for _ in 1 2 3 4 5 6 7 8 9 10; do
  n=$(init_count)
  ip link set "$dev" down || die "ip link set $dev down"
  link_up
  iscsi_up "$n"
done
ping_peer

say "unload"
ip link set "$dev" down || die "ip link set $dev down"
unload
say "load again, cnic and bnx2i first"
bring_up
say "unload with the interface up"
unload
say "ok"
