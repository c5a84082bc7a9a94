# shellcheck shell=dash
# The cable is out for 3 s and for 15 s under verified I/O. The short flap is shorter than the keepalive (5 s + 5 s): the
# session must not notice. The long one costs it a recovery. Needs a `--helper` that knows `cable out` and `cable in`.
# shellcheck source=lib.sh
. /guest/lib.sh
# shellcheck source=iscsi.sh
. /guest/iscsi.sh
stack_up
record
login
load_up
no_carrier() { ! carrier; }
lost() { dmesg | grep -c 'detected conn error'; }
lost_after() { [ "$(lost)" -gt "$1" ]; }
flap() {
  say "cable out for $1 s"
  host cable out
  wait_for 10 no_carrier || die "the link stays when the cable is out"
  sleep "$1"
  host cable in
  wait_for 10 carrier || die "no link when the cable is in again"
}
errors=$(lost)
flap 3
recovered "a flap of 3 s"
[ "$(lost)" = "$errors" ] || die "a flap of 3 s cost the session"
flap 15
wait_for 20 lost_after "$errors" || die "a flap of 15 s went unnoticed"
recovered "a flap of 15 s"
load_down
logout
stack_down
say "ok"
