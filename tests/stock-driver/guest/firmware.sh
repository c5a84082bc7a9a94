# shellcheck shell=dash
# How long the stock bnx2 needs to bring the chip up, TIMES in a row: `ip link set up` resets the chip and downloads the
# firmware of its six processors, about 53 000 register writes. Judges nothing; see docs/performance.md.
# shellcheck source=lib.sh
. /guest/lib.sh
load_bnx2
for _ in $(seq "${TIMES:-5}"); do
  start=$(uptime_s)
  ip link set "$dev" up || die "ip link set $dev up"
  end=$(uptime_s)
  wait_for 20 carrier || die "no link"
  echo "up in $(echo "$start $end" | awk '{ printf "%.2f", $2 - $1 }') s"
  ip link set "$dev" down || die "ip link set $dev down"
done
rmmod bnx2
say "ok"
