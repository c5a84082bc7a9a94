# shellcheck shell=dash disable=SC2154,SC2153 # from lib.sh, from outside
# The stock user land on top of lib.sh: `. /guest/iscsi.sh` after it. Debian's fio would make the guest three times as big;
# `verify` does. From `run --env`:
#   TARGET_IQN (needed), TARGET_IP, TARGET_PORT   what to log in to; an IPv6 address makes all of this IPv6
#   HOST_ADDR6                                    address of the guest's NIC then
#   ISCSI_IP, ISCSI_MASK                          address of the iSCSI function; ISCSI_IP=dhcp: the helper asks for one
#   SESSIONS                                      to the same target, each with its own disk nodes
#   CHAP_USER, CHAP_PASS, CHAP_USER_IN, CHAP_PASS_IN
#   DIGESTS                                       1: CRC32C for headers and data
#   VLAN                                          of the iSCSI function
#   TRANSPORT                                     bnx2i (default), or tcp: the kernel's own initiator over the virtio NIC
TRANSPORT=${TRANSPORT:-bnx2i}
if [ "$TRANSPORT" = tcp ]; then TARGET_IP=${TARGET_IP:-10.0.2.2}; fi
TARGET_IP=${TARGET_IP:-10.0.0.2} TARGET_PORT=${TARGET_PORT:-3260} ISCSI_IP=${ISCSI_IP:-10.0.0.3}
ISCSI_MASK=${ISCSI_MASK:-255.255.255.0} SESSIONS=${SESSIONS:-1}
HOST_ADDR6=${HOST_ADDR6:-fd00::1/64}
case $TARGET_IP in *:*) portal="[$TARGET_IP]:$TARGET_PORT" ;; *) portal=$TARGET_IP:$TARGET_PORT ;; esac
restarts=0

# A failure shows what the daemons have said.
die() {
  echo "FAILED: $* (t=$(uptime_s))"
  if [ -s /tmp/iscsiuio.log ]; then
    echo '-- iscsiuio'
    threads iscsiuio
    grep -v -e '^$' -e '^DBG' /tmp/iscsiuio.log | tail -n 60
  fi
  if [ -s /tmp/iscsid.log ]; then echo '-- iscsid'; tail -n 30 /tmp/iscsid.log; fi
  sleep 1.5 # `tail -f` looks once a second
  exit 1
}
# threads PROGRAM: what its threads wait for in the kernel
threads() {
  local p t
  for p in $(pidof "$1"); do
    for t in /proc/"$p"/task/*; do echo "$1 ${t##*/}: $(cat "$t/wchan" 2>/dev/null)"; done
  done
}

# ---- daemons ---------------------------------------------------------------------------------------------
# It says nothing at all unless it can write a file in /var/log. What it says also goes to the third serial port, which `run` keeps
# whatever becomes of the guest.
iscsiuio_up() {
  mkdir -p /var/log
  if [ ! -e /tmp/iscsiuio.log ]; then
    : >/tmp/iscsiuio.log
    tail -f /tmp/iscsiuio.log >/dev/ttyS2 &
  fi
  setsid iscsiuio -f -d 4 >>/tmp/iscsiuio.log 2>&1 &
  wait_for 5 pidof iscsiuio || die "iscsiuio did not start"
}
# iscsid ends by a signal to its process group: hence setsid
iscsid_up() {
  mkdir -p /run/lock/iscsi
  setsid iscsid -f -d 1 >>/tmp/iscsid.log 2>&1 &
  wait_for 5 pidof iscsid || die "iscsid did not start"
}
# stack_up: drivers, daemons and the iface record; sets dev, pci and iface
stack_up() {
  modprobe sd_mod || die "modprobe sd_mod"
  if [ "$TRANSPORT" = tcp ]; then
    net_up
    modprobe iscsi_tcp || die "modprobe iscsi_tcp"
    iscsid_up
    iface=default
    say "iscsi_tcp, to $portal"
    return
  fi
  bring_up
  iscsiuio_up
  iscsid_up
  # makes a record for every host; it says ipv4, but its addresses decide
  iface=$(iscsiadm -m iface | awk '/^bnx2i\./ { print $1; exit }')
  [ -n "$iface" ] || die "no iface record of bnx2i: $(iscsiadm -m iface)"
  case $TARGET_IP in *:*) ip -6 addr add "$HOST_ADDR6" dev "$dev" ;; esac # the route of the driver's look-up
  if [ "$ISCSI_IP" = dhcp ]; then
    case $TARGET_IP in *:*) iface_set ipaddress :: ;; *) iface_set ipaddress 0.0.0.0 ;; esac
  else
    iface_set ipaddress "$ISCSI_IP"
    case $ISCSI_IP in *:*) ;; *) iface_set subnet_mask "$ISCSI_MASK" ;; esac
  fi
  if [ -n "${VLAN:-}" ]; then iface_set vlan_id "$VLAN"; iface_set vlan_state enable; fi
  say "iface $iface, address $ISCSI_IP"
}
iface_set() { iscsiadm -m iface -I "$iface" -o update -n "iface.$1" -v "$2" >/dev/null || die "iface.$1=$2"; }
stack_down() {
  if [ "$TRANSPORT" = tcp ]; then
    killall iscsid
    wait_for 10 gone iscsid || die "iscsid does not end"
    rmmod iscsi_tcp || die "rmmod iscsi_tcp"
    return
  fi
  killall iscsiuio iscsid
  wait_for 10 gone iscsiuio && wait_for 10 gone iscsid || die "a daemon does not end"
  ip link set "$dev" down || die "ip link set $dev down"
  unload
}
gone() { ! pidof "$1"; }

# ---- sessions --------------------------------------------------------------------------------------------
node() { iscsiadm -m node -T "$TARGET_IQN" -p "$portal,1" -I "$iface" "$@"; }
node_set() { node -o update -n "node.$1" -v "$2" || die "node.$1=$2"; }
# record: the node record, without discovery, which would need the host's own TCP
record() {
  node -o new || die "node record"
  node_set session.timeo.replacement_timeout 120
  node_set session.nr_sessions "$SESSIONS"
  if [ -n "${CHAP_USER:-}" ]; then
    node_set session.auth.authmethod CHAP
    node_set session.auth.username "$CHAP_USER"
    node_set session.auth.password "$CHAP_PASS"
  fi
  if [ -n "${CHAP_USER_IN:-}" ]; then
    node_set session.auth.username_in "$CHAP_USER_IN"
    node_set session.auth.password_in "$CHAP_PASS_IN"
  fi
  if [ "${DIGESTS:-0}" = 1 ]; then
    node_set conn[0].iscsi.HeaderDigest CRC32C
    node_set conn[0].iscsi.DataDigest CRC32C
  fi
}
# login: all sessions; sets disks
login() {
  # An address that nobody answers for is tried for minutes: give up earlier, with the logs.
  timeout "${LOGIN_TIMEOUT:-60}" iscsiadm -m node -T "$TARGET_IQN" -p "$portal,1" -I "$iface" --login || die login
  wait_for 20 all_disks || die "there are $(found_disks | wc -l) disks, not $SESSIONS"
  disks=$(found_disks)
  say "logged in: $(echo "$disks" | one_line)"
}
logout() {
  node --logout || die logout
  wait_for 10 no_disks || die "disks after logout: $(found_disks)"
}
# found_disks: the first logical unit that has blocks of each session to the target
found_disks() {
  local s d
  for s in /sys/class/iscsi_session/session*; do
    [ "$(cat "$s/targetname" 2>/dev/null)" = "$TARGET_IQN" ] || continue
    for d in "$s"/device/target*/*/block/sd*; do
      if [ -e "$d" ]; then echo "/dev/${d##*/}"; break; fi
    done
  done
}
all_disks() { [ "$(found_disks | wc -l)" = "$SESSIONS" ]; }
no_disks() { [ -z "$(found_disks)" ]; }
one_line() { tr '\n' ' '; }
# session_states: one word per session
session_states() { cat /sys/class/iscsi_session/session*/state 2>/dev/null; }
logged_in() { [ "$(session_states | grep -c '^LOGGED_IN$')" = "$SESSIONS" ]; }

# ---- I/O ---------------------------------------------------------------------------------------------------
# verify DISK MB [AT_MB]: write random data past the page cache, read it back, compare
verify() {
  local at=$((${3:-0} * 16)) f=/tmp/verify.${1##*/}
  dd if=/dev/urandom of="$f" bs=1M count="$2" 2>/dev/null &&
    dd if="$f" of="$1" bs=64k seek="$at" oflag=direct conv=fsync,notrunc 2>/dev/null &&
    dd if="$1" of="$f.read" bs=64k skip="$at" count=$(($2 * 16)) iflag=direct 2>/dev/null &&
    cmp "$f" "$f.read" || return 1
  rm -f "$f" "$f.read"
}
# file_system DISK: make one, put a file there, check it, mount it again, compare
file_system() {
  modprobe crc32c_generic 2>/dev/null # built in, in newer kernels
  modprobe ext4 || return 1
  mkfs.ext4 -q -F "$1" && mount -t ext4 "$1" /mnt || return 1
  dd if=/dev/urandom of=/tmp/file bs=64k count=40 2>/dev/null
  cp /tmp/file /mnt/file && umount /mnt && e2fsck -f -n "$1" && mount -t ext4 "$1" /mnt || return 1
  cmp /tmp/file /mnt/file || { umount /mnt; return 1; }
  umount /mnt
}

# ---- load and disturbances ---------------------------------------------------------------------------------
# load_up: verified I/O on every disk, 1 MB after the other, until load_down. All are the same unit: each has its own 8 MB.
load_up() {
  local disk base=0
  rm -f /tmp/stop /tmp/load.*
  for disk in $disks; do
    (
      n=0
      until [ -e /tmp/stop ]; do
        verify "$disk" 1 $((base + n % 4)) || { echo "pass $n on $disk" >/tmp/load.failed; exit 1; }
        n=$((n + 1))
        echo "$n" >"/tmp/load.${disk##*/}"
      done
      touch "/tmp/load.ended.${disk##*/}"
    ) &
    base=$((base + 8))
  done
  passes_before
  wait_for 60 progress || die "no I/O"
}
# The marks of each disk; progress: every disk has finished one more pass than at passes_before.
passes_before() { before=$(passes); }
passes() { local disk; for disk in $disks; do echo "${disk##*/} $(cat "/tmp/load.${disk##*/}" 2>/dev/null || echo 0)"; done; }
progress() { [ ! -e /tmp/load.failed ] && ! printf '%s\n%s\n' "$before" "$(passes)" | sort | uniq -d | grep -q .; }
load_down() {
  touch /tmp/stop
  wait_for 120 load_ended || die "the load does not end: sessions are $(session_states | one_line)"
  [ ! -e /tmp/load.failed ] || die "verification failed: $(cat /tmp/load.failed)"
}
load_ended() { [ -e /tmp/load.failed ] || [ "$(find /tmp -name "load.ended.*" | wc -l)" = "$SESSIONS" ]; }
# recovered WHAT: sessions and load are back. iscsiuio can lock up by itself when it is asked twice in a row during a
# reset (futexes in all its threads): it is then started anew and counted.
recovered() {
  if ! wait_for 25 logged_in; then
    restarts=$((restarts + 1))
    [ "$restarts" -le "${RESTARTS:-3}" ] || die "sessions are $(session_states | one_line) after: $1"
    say "sessions are $(session_states | one_line): iscsiuio is started anew"
    threads iscsiuio
    killall -9 iscsiuio
    sleep 1
    iscsiuio_up
    wait_for 60 logged_in || die "sessions are $(session_states | one_line) after: $1, and a restart of iscsiuio"
  fi
  passes_before
  wait_for 90 progress || die "no I/O after: $1; $(cat /tmp/load.failed 2>/dev/null)"
  say "recovered: $(passes | one_line)"
}
