# shellcheck shell=dash
# The guest reboots with the drivers in use, and again; the chip and the connection of QEMU stay. At the end the machine
# is switched off with the drivers still in use. Run with --reboot.
# shellcheck source=lib.sh
. /guest/lib.sh
say "boot $BOOT"
bring_up
case $BOOT in
  1) reboot_guest ;;
  2)
    # without any shutdown: the chip is still doing DMA when DEVICE_RESET comes
    note_boot 3
    echo "GUEST-REBOOT"
    echo 1 >/proc/sys/kernel/sysrq
    sleep 0.2
    echo b >/proc/sysrq-trigger
    sleep 30
    die "no reboot" ;;
esac
say "ok"
