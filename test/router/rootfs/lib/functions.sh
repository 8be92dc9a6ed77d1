# shellcheck shell=dash
# Stand-in for OpenWrt's /lib/functions.sh: what init scripts and package scripts use of it.

config_load() {
	local section
	for section in $CONFIG_SECTIONS; do
		eval "$(set | sed -n "s/^\(CONFIG_${section}_[A-Za-z0-9_]*\)=.*/unset \1/p")"
	done
	CONFIG_SECTIONS=''
	[ -e "/etc/config/$1" ] || return 1
	eval "$(awk -f /usr/share/uci.awk -v command=shell "/etc/config/$1")"
}

config_get() {
	if [ -z "$3" ]; then
		eval "echo \"\${CONFIG_${1}_${2}}\""
	else
		eval "$1=\"\${CONFIG_${2}_${3}:-\$4}\""
	fi
}

config_get_bool() {
	config_get "$@"
	eval "case \$$1 in 1 | on | true | yes | enabled) $1=1 ;; 0 | off | false | no | disabled) $1=0 ;; *) $1=$4 ;; esac"
}

config_foreach() {
	local function=$1 type=$2 section this
	shift 2
	for section in $CONFIG_SECTIONS; do
		eval "this=\$CONFIG_${section}_TYPE"
		[ -z "$type" ] || [ "$type" = "$this" ] && "$function" "$section" "$@"
	done
}

_package_scripts() { # /usr/lib/opkg/info/NAME.postinst
	local name=${1##*/}
	grep '^/etc/init\.d/' "/usr/lib/opkg/info/${name%.*}.list"
}

# default_postinst FILE: the package's own script, then every init script of the package is
# enabled (but not by an upgrade) and started.
default_postinst() {
	local file name=${1##*/}
	name=/usr/lib/opkg/info/${name%.*}.postinst-pkg
	# shellcheck source=/dev/null
	[ ! -e "$name" ] || (. "$name")
	for file in $(_package_scripts "$1"); do
		[ "$PKG_UPGRADE" = 1 ] || "$file" enable
		"$file" start
	done
}

default_prerm() {
	local file
	for file in $(_package_scripts "$1"); do
		[ "$PKG_UPGRADE" = 1 ] || "$file" disable
		"$file" stop
	done
}
