# shellcheck shell=dash
# The guest is an iSCSI target: the Linux kernel's own (LIO), on port 3260 of `run --forward`. Whoever connects to port 3261 gives
# orders, a function of this file and its arguments in each line, and is answered `ok` or `failed` after each; `finish` ends the run.
# shellcheck source=lib.sh
. /guest/lib.sh
core=/sys/kernel/config/target/core fabric=/sys/kernel/config/target/iscsi

# disk NAME MB: a block device of that size on a file, which every target can have as a unit
disk() {
  local loop hba
  truncate -s "$2M" "/tmp/$1.img" && loop=$(losetup -f) && losetup "$loop" "/tmp/$1.img" || return 1
  hba=$core/iblock_$(ls $core | grep -c '^iblock_')
  mkdir -p "$hba/$1" && echo "udev_path=$loop" >"$hba/$1/control" && echo "$1" >"$hba/$1/wwn/vpd_unit_serial" &&
    echo 1 >"$hba/$1/enable" && echo "$loop" >"/tmp/$1.loop"
}
# resize NAME MB: under a target that keeps it
resize() { truncate -s "$2M" "/tmp/$1.img" && losetup -c "$(cat "/tmp/$1.loop")"; }
# target IQN [USER SECRET [USER SECRET]]: the second pair is what it proves to initiators
target() {
  local tpg=$fabric/$1/tpgt_1
  mkdir -p "$tpg/np/0.0.0.0:3260" || return 1
  set_all "$tpg/attrib" generate_node_acls=1 demo_mode_write_protect=0 cache_dynamic_acls=1 "authentication=$((${2:+1}+0))" &&
    set_all "$tpg/auth" "userid=${2:-NULL}" "password=${3:-NULL}" "userid_mutual=${4:-NULL}" "password_mutual=${5:-NULL}" &&
    enable "$1"
}
set_all() {
  local dir=$1 pair
  shift
  for pair; do printf '%s' "${pair#*=}" >"$dir/${pair%%=*}" || return 1; done
}
# plug IQN LUN DISK, unplug IQN LUN. In place of a LUN 0 that is gone LIO shows an empty, write-protected one of its own.
plug() { mkdir "$fabric/$1/tpgt_1/lun/lun_$2" && ln -s $core/iblock_*/"$3" "$fabric/$1/tpgt_1/lun/lun_$2/unit"; }
unplug() { rm "$fabric/$1/tpgt_1/lun/lun_$2/unit" && rmdir "$fabric/$1/tpgt_1/lun/lun_$2"; }
# disable IQN: ends all sessions and refuses logins until enable
disable() { echo 0 >"$fabric/$1/tpgt_1/enable"; }
enable() { echo 1 >"$fabric/$1/tpgt_1/enable"; }
finish() { touch /tmp/finish; }

# take_down: the kernel lets go of everything
take_down() {
  local t l d
  for t in "$fabric"/iqn.*; do
    disable "${t##*/}" || return 1
    for l in "$t"/tpgt_1/lun/lun_*; do [ -e "$l" ] || continue; unplug "${t##*/}" "${l##*_}" || return 1; done
    rmdir "$t"/tpgt_1/np/* "$t/tpgt_1" "$t" || return 1
  done
  for d in "$core"/iblock_*/*/; do
    [ -e "$d" ] || continue
    case $d in *"/alua/" | *"/hba_"*) continue ;; esac
    rmdir "$d" && rmdir "${d%/*/}" || return 1
    d=${d%/} d=${d##*/}
    losetup -d "$(cat "/tmp/$d.loop")" || return 1
  done
  rmdir "$fabric" && rmmod iscsi_target_mod target_core_iblock target_core_mod
}

if [ "${1:-}" = serve ]; then
  while read -r order; do
    # shellcheck disable=SC2086 # words
    if $order >/tmp/order 2>&1; then echo ok; else echo "failed: $(tr '\n' ' ' </tmp/order)"; fi
  done
  exit
fi
net_up
mkdir -p /etc/target /var/target/pr /var/target/alua # where it keeps what has to survive
modprobe loop && modprobe target_core_mod && modprobe target_core_iblock && modprobe iscsi_target_mod || die "no LIO modules"
mount -t configfs none /sys/kernel/config || die "configfs"
mkdir "$fabric"
nc -ll -p 3261 -e sh /guest/script serve &
say "ready"
until [ -e /tmp/finish ]; do sleep 0.1; done
take_down || die "the kernel does not let go of its targets"
say "ok"
