#!/bin/sh
# Writes the probe as a 64 KiB firmware file, for trying it by hand; isr links
# kvm_probe.S itself. Usage: build.sh OUTPUT
set -eu
here=$(dirname "$0")
out=${1:?usage: build.sh OUTPUT}
object=$(mktemp)
trap 'rm -f "$object"' EXIT
gcc -c -o "$object" "$here/kvm_probe.S"
objcopy -O binary -j .rodata "$object" "$out.tmp"
test "$(stat -c %s "$out.tmp")" = 4096
{ head -c 61440 /dev/zero; cat "$out.tmp"; } >"$out"
rm -f "$out.tmp"
