# shellcheck shell=dash
# The target ends and starts again, with the same disks, under verified I/O: the session comes back and no data is lost.
# Needs a `--helper` that knows `target stop` and `target start`.
# shellcheck source=lib.sh
. /guest/lib.sh
# shellcheck source=iscsi.sh
. /guest/iscsi.sh
stack_up
record
login
load_up
lost() { dmesg | grep -c 'detected conn error'; }
lost_after() { [ "$(lost)" -gt "$1" ]; }
for pause in 1 8; do
  say "the target is away for $pause s"
  errors=$(lost)
  host target stop
  wait_for 20 lost_after "$errors" || die "nobody noticed that the target is away"
  sleep "$pause"
  host target start
  recovered "a restart of the target"
done
load_down
for disk in $disks; do verify "$disk" 4 || die "data on $disk after the restarts"; done
logout
stack_down
say "ok"
