# shellcheck shell=dash
# The complete stock stack through the chip: drivers, iscsiuio, iscsid, login, verified I/O, a file system, logout, login
# again with the same data, logout, unload. Environment: see iscsi.sh; VERIFY_MB per session.
# shellcheck source=lib.sh
. /guest/lib.sh
# shellcheck source=iscsi.sh
. /guest/iscsi.sh
stack_up
record
say "login"
login
for disk in $disks; do
  verify "$disk" "${VERIFY_MB:-4}" || die "data on $disk"
done
say "${VERIFY_MB:-4} MB verified on each"
first=${disks%%[[:space:]]*}
file_system "$first" || die "ext4 on $first"
say "ext4 verified"
iscsiadm -m session -P 2 | grep -E 'Transport|Netdev|IPaddress|State|Length|R2T|Immediate|Digest'
sum=$(dd if="$first" bs=64k count=64 iflag=direct 2>/dev/null | sha256sum)
logout
say "login again"
login
first=${disks%%[[:space:]]*}
[ "$sum" = "$(dd if="$first" bs=64k count=64 iflag=direct 2>/dev/null | sha256sum)" ] || die "other data than before"
logout
say "unload"
stack_down
say "ok"
