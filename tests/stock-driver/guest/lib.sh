# shellcheck shell=dash
# What guest scripts share: `. /guest/lib.sh`. From `run --env` and `--intr`: HOST_ADDR (address of the guest's NIC),
# PEER (who answers pings), SPEED (Mbit/s of the link), INTR (intx, msi or msix; empty: whatever comes).
HOST_ADDR=${HOST_ADDR:-10.0.0.1/24} PEER=${PEER:-10.0.0.2} SPEED=${SPEED:-1000} INTR=${INTR:-}

uptime_s() { cut -d' ' -f1 /proc/uptime; }
say() { echo "== $* (t=$(uptime_s))"; }
die() { echo "FAILED: $* (t=$(uptime_s))"; exit 1; }
# host WORDS: `run --helper` does something outside
host() { echo "HOST: $*"; }
# wait_for SECONDS COMMAND...: poll until the command succeeds
wait_for() {
  local end
  end=$(($(date +%s) + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# net_up: the virtio NIC of `run --net`. The kernel's own iSCSI loads hash functions when a session wants them.
net_up() {
  echo /usr/bin/modprobe >/proc/sys/kernel/modprobe
  modprobe virtio_pci && modprobe virtio_net && wait_for 5 virtio_nic || die "no virtio NIC: has setup been run since it was changed?"
  echo 0 >"/proc/sys/net/ipv6/conf/$nic/accept_dad" # the address is ours, and usable at once
  ip addr add 10.0.2.15/24 dev "$nic" && ip -6 addr add fec0::15/64 dev "$nic" && ip link set "$nic" up || die "$nic"
}
virtio_nic() { nic=$(basename "$(echo /sys/bus/virtio/drivers/virtio_net/virtio*/net/*)") && [ -e "/sys/class/net/$nic" ]; }

# ---- guest reboots: a disk that `run --reboot` adds counts the boots ---------------------------
# boot_count: sets BOOT. A boot that nobody asked for (a panic, a triple fault) is a failure.
boot_count() {
  BOOT=1
  if [ "${REBOOT:-0}" = 1 ]; then
    modprobe virtio_pci && modprobe virtio_blk && wait_for 5 test -b /dev/vda || die "no disk for the boot count"
    BOOT=$(head -c 512 /dev/vda | tr -d '\0 ')
    BOOT=${BOOT:-1}
    [ "$BOOT" != running ] || die "the guest rebooted by itself"
    note_boot running
  fi
  export BOOT
}
note_boot() { printf '%-512s' "$1" | dd of=/dev/vda bs=512 conv=fsync 2>/dev/null || die "boot count"; }
# reboot_guest: shut the kernel down and start it again; QEMU and its connection stay
reboot_guest() {
  note_boot $((BOOT + 1))
  echo "GUEST-REBOOT"
  sleep 0.2
  reboot -f
  sleep 30
  die "no reboot"
}

# ---- the stock drivers -----------------------------------------------------------------------------------
# load_bnx2: sets dev (the interface) and pci (its directory in sysfs)
load_bnx2() {
  local args=''
  [ "$INTR" != intx ] || args=disable_msi=1
  modprobe bnx2 $args || die "modprobe bnx2"
  pci=$(echo /sys/bus/pci/drivers/bnx2/0*)
  [ -d "$pci/net" ] || die "bnx2 took no device; there are: $(cat /sys/bus/pci/devices/*/modalias)"
  dev=$(ls "$pci/net")
}
load_cnic() { modprobe cnic && modprobe bnx2i || die "modprobe cnic, bnx2i"; }
carrier() { [ "$(cat "/sys/class/net/$dev/carrier" 2>/dev/null)" = 1 ]; }
# link_up: bring the interface up, wait for the link, check speed and kind of interrupt
link_up() {
  local have kind
  ip link set "$dev" up || die "ip link set $dev up"
  wait_for 20 carrier || die "no link on $dev"
  have=$(cat "/sys/class/net/$dev/speed")
  [ "$have" = "$SPEED" ] || die "the link has $have Mbit/s, not $SPEED"
  kind=$(cat "$pci"/msi_irqs/* 2>/dev/null | sort -u)
  [ "${INTR:-${kind:-intx}}" = "${kind:-intx}" ] || die "interrupts are ${kind:-intx}, not $INTR"
}
# address: once per load of the driver
address() { ip addr add "$HOST_ADDR" dev "$dev" || die "address $HOST_ADDR"; }
# ping_peer [BYTES]: no reply may be lost
# shellcheck disable=SC2120 # the bytes are optional
ping_peer() {
  local out
  out=$(ping -c 3 -i 0.2 -W 2 -s "${1:-56}" "$PEER") || die "ping $PEER: $out"
  echo "$out" | grep -q ' 0% packet loss' || die "ping $PEER lost replies: $out"
}
# init_count: how often the chip has answered ISCSI_INIT
init_count() { dmesg | grep -c 'ISCSI_INIT passed'; }
init_after() { [ "$(init_count)" -gt "$1" ]; }
# iscsi_up COUNT: one more ISCSI_INIT than COUNT must come
iscsi_up() { wait_for 15 init_after "$1" || die "no 'ISCSI_INIT passed' after $1 of them"; }
unload() { rmmod bnx2i && rmmod cnic && rmmod bnx2 || die "rmmod"; [ ! -e "/sys/class/net/$dev" ] || die "$dev is still there"; }
# bring_up: all of the above, drivers to ISCSI_INIT
bring_up() {
  local before
  before=$(init_count)
  load_bnx2
  load_cnic
  address
  link_up
  # shellcheck disable=SC2119
  ping_peer
  iscsi_up "$before"
}
