# shellcheck shell=dash
# A guest on a chip that has served another one, which may have left without a word: everything comes up and goes down.
# shellcheck source=lib.sh
. /guest/lib.sh
bring_up
unload
say "ok"
