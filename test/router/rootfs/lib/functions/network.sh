# shellcheck shell=dash
# Stand-in for OpenWrt's /lib/functions/network.sh: asks ubus for netifd's answers, once in the
# life of a script, as there.

network_get_device() {
	local answer
	eval "answer=\$__NETWORK_CACHE_$2"
	[ -n "$answer" ] || {
		answer=$(ubus call "network.interface.$2" status 2> /dev/null | sed -n 's/.*"l3_device": *"\([^"]*\)".*/\1/p')
		eval "__NETWORK_CACHE_$2=\$answer"
	}
	eval "$1=\$answer"
	[ -n "$answer" ]
}

network_flush_cache() {
	local name
	for name in $(set | sed -n 's/^\(__NETWORK_CACHE_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
}
