# shellcheck shell=dash
# Stand-in for OpenWrt's /lib/functions/network.sh: asks ubus for netifd's answers.

network_get_device() {
	local answer
	answer=$(ubus call "network.interface.$2" status 2> /dev/null | sed -n 's/.*"l3_device": *"\([^"]*\)".*/\1/p')
	eval "$1=\$answer"
	[ -n "$answer" ]
}

network_flush_cache() {
	return 0
}
