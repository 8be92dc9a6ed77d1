# shellcheck shell=sh disable=SC2034,SC2154 # set for, and by, the script that sources this
# How to run $program: sourced by run-unit.sh and run-native.sh. Executables for routers (build/ARCH/masqd), and the
# static one (build/musl/masqd), take bytecode, and run under qemu-user where they are not this machine's.

emulator=
compiler=
parser=true
case $program in
*mips_24kc/*) emulator=qemu-mips-static compiler=build/tools/bytecode-swapped ;;
*mipsel_24kc/*) emulator=qemu-mipsel-static compiler=build/tools/bytecode ;;
*arm_cortex-a7_neon-vfpv4/*) emulator=qemu-arm-static compiler=build/tools/bytecode ;;
*aarch64_cortex-a53/*) emulator=qemu-aarch64-static compiler=build/tools/bytecode ;;
*x86_64/* | *musl/*) compiler=build/tools/bytecode ;;
esac
[ -z "$compiler" ] || parser=false

# The bundle $1 in the form that $program takes: prints the file's name.
for_program() {
	if [ -n "$compiler" ]; then
		"$compiler" "$1" "$1.qbc"
		echo "$1.qbc"
	else
		echo "$1"
	fi
}
