# shellcheck shell=dash
# What the kernel's disk driver and sg3-utils ask of a unit, with the answers compared, and LUN resets under verified I/O. Data of
# the first 8 MB is lost. Environment: see iscsi.sh.
# shellcheck source=lib.sh
. /guest/lib.sh
# shellcheck source=iscsi.sh
. /guest/iscsi.sh
stack_up
record
login
disk=${disks%%[[:space:]]*} name=${disk##*/}
# asked COMMAND...: its answer in `answer`
asked() { answer=$("$@" 2>&1) || die "$*: $answer"; }
# says TEXT: the answer has it
says() { case $answer in *"$1"*) ;; *) die "no '$1' in: $answer" ;; esac; }
asked sg_turs -n 20 "$disk"
asked sg_inq "$disk"; says 'Peripheral device type: disk'
for page in sv sn di bl lbpv; do asked sg_vpd -p "$page" "$disk"; done
asked sg_luns "$disk"; says 0000000000000000
asked sg_readcap --16 -b "$disk"
blocks=$(printf '%d' "${answer%% *}")
[ "$blocks" = $(($(cat "/sys/block/$name/size"))) ] || die "READ CAPACITY(16): $answer"
say "$blocks blocks"
verify "$disk" 8 || die "data"
asked sg_unmap --force --lba=0 --num=2048 "$disk"
dd if="$disk" bs=64k count=16 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero || die "unmapped blocks are not zero"
dd if=/dev/urandom of=/tmp/block bs=512 count=1 2>/dev/null
asked sg_write_same --16 --in=/tmp/block --lba=2048 --num=1024 "$disk"
for _ in $(seq 1024); do cat /tmp/block; done >/tmp/same
dd if="$disk" bs=64k skip=16 count=8 iflag=direct 2>/dev/null | cmp - /tmp/same || die "WRITE SAME"
say "unmapped, written the same"
load_up
for _ in 1 2 3; do
  asked sg_reset --device "$disk"
  passes_before
  wait_for 60 progress || die "no I/O after a LUN reset"
done
load_down
say "three LUN resets"
logout
stack_down
say "ok"
