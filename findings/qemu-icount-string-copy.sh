#!/bin/sh
# In a machine whose clock counts instructions (qemu -icount), one `rep movsb` of 8,192 bytes takes 8,192 ns, and the same copy
# by `rep movsd` a quarter: every repetition counts as an instruction of its own.
#
# Packages: Debian 12's qemu-system-x86 1:7.2+dfsg-7+deb12u18+b3 and what it depends on, with `-icount shift=0 -cpu max`.
# Why it surprises: the manual has one instruction for every 2^N ns, and this is one. `-cpu max` tells the guest of fast string
# copies (ERMS, FSRM), so Linux and the C library copy by `rep movsb` all they can: what real processors move by 16 or 32 bytes
# a cycle costs a nanosecond a byte, and rates of whatever copies a lot (sockets, 64 kB super-packets) look four times too
# small, and nearly equal. `-cpu max,-erms,-fsrm` makes guests copy by eight bytes a turn.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p archives/partial
: >status
apt-get install -qq -y --download-only --no-install-recommends -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
	-o Dir::State::status="$folder/status" -o Dir::Cache::archives="$folder/archives" \
	qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 >/dev/null 2>&1
for package in archives/*.deb; do dpkg-deb -x "$package" root; done

# Firmware of 64 kB that starts at the processor's first address. In 16-bit code: rdtsc, 8,192 times movsb, rdtsc, the difference
# to the serial port in hexadecimal; the same with 2,048 times movsd; off.
program() {
	printf '\372\374\061\300\216\330\216\300\216\320\274\000\160\017\061\146\211\305\276\000\100\277\000\200\271'
	printf '\000\040\363\244\017\061\146\051\350\350\040\000\017\061\146\211\305\276\000\100\277\000\200\271\000'
	printf '\010\146\363\245\017\061\146\051\350\350\007\000\260\000\346\364\364\353\375\146\211\303\271\010\000'
	printf '\272\370\003\146\301\303\004\210\330\044\017\004\060\074\071\166\002\004\047\356\342\355\260\012\356'
	printf '\303'
}
{
	program
	head -c $((65536 - 16 - $(program | wc -c))) /dev/zero
	printf '\352\000\000\000\360' # jump to f000:0000
	head -c 11 /dev/zero
} >firmware

libraries=$folder/root/lib/x86_64-linux-gnu:$folder/root/usr/lib/x86_64-linux-gnu
took=$(QEMU_MODULE_DIR="$folder/root/usr/lib/x86_64-linux-gnu/qemu" \
	"$folder/root/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" \
	"$folder/root/usr/bin/qemu-system-x86_64" -L "$folder/root/usr/share/qemu" \
	-machine pc,accel=tcg -icount shift=0,sleep=off -cpu max -m 16 -nodefaults -display none -no-reboot -serial stdio \
	-bios firmware -device isa-debug-exit,iobase=0xf4 </dev/null) || : # 1 is what isa-debug-exit ends with
bytes=$((0x$(echo "$took" | sed -n 1p)))
words=$((0x$(echo "$took" | sed -n 2p)))
echo "seen: qemu 7.2 -icount shift=0: 8192 bytes by one rep movsb take $bytes ns, by one rep movsd $words ns"
[ "$bytes" -ge 8192 ] && [ "$bytes" -lt 8256 ] && [ "$words" -ge 2048 ] && [ "$words" -lt 2112 ]
