# shellcheck shell=dash disable=SC3023
# Stand-in for procd and its shell library. An instance is a folder /var/run/procd/SERVICE with
# one file a parameter; /sbin/procd-instance runs it. `set` does what procd's does: nothing if
# nothing changed, the reload signal or a restart if something did, a stop if there is no
# instance any more. A service that was started has triggers, with an instance or without.

PROCD=/var/run/procd
PROCD_RELOAD_DELAY=1000

# One lock a service, of descriptor 1000: as there, whoever has inherited that has the lock.
procd_lock() {
	flock -n 1000 2> /dev/null && return
	mkdir -p "$PROCD"
	# shellcheck disable=SC2154 # the service's name, which rc.common sets
	exec 1000> "$PROCD/lock.$name"
	flock 1000
}

procd_open_service() {
	_service=$1
	_new=$PROCD/$1.new
	rm -rf "$_new"
	mkdir -p "$PROCD/triggers"
}

procd_open_instance() { mkdir -p "$_new"; }
procd_close_instance() { return 0; }

procd_set_param() {
	local type=$1 file
	shift
	case $type in
		file) for file in "$@"; do md5sum "$file"; done > "$_new/file" ;;
		netdev) for file in "$@"; do echo "$file $(cat "/sys/class/net/$file/ifindex" 2> /dev/null)"; done > "$_new/netdev" ;;
		command | env) for file in "$@"; do echo "$file"; done > "$_new/$type" ;;
		# As there: a number, or nothing at all where `kill -l` answers with a name.
		reload_signal) case $(kill -l "$1" 2> /dev/null) in '' | *[!0-9]*) ;; *) kill -l "$1" > "$_new/$type" ;; esac ;;
		*) echo "$*" > "$_new/$type" ;;
	esac
}

procd_add_jail() { echo "$*" > "$_new/jail"; }

procd_add_reload_trigger() {
	local package
	for package in "$@"; do echo "config $package $PROCD_RELOAD_DELAY" >> "$_triggers"; done
}
procd_add_reload_interface_trigger() { echo "interface $1 $PROCD_RELOAD_DELAY" >> "$_triggers"; }

_procd_differs() { # FILE...
	local file
	for file in "$@"; do
		[ "$(cat "$_new/$file" 2> /dev/null)" = "$(cat "$PROCD/$_service/$file" 2> /dev/null)" ] || return 0
	done
	return 1
}

procd_close_service() {
	local old=$PROCD/$_service
	_triggers=$PROCD/triggers/$_service
	: > "$_triggers"
	service_triggers
	if [ ! -d "$_new" ]; then
		_procd_end "$_service"
	elif [ ! -d "$old" ]; then
		mv "$_new" "$old"
		setsid /sbin/procd-instance "$old" < /dev/null > /dev/null 2>&1 1000>&- &
	elif _procd_differs command env jail file netdev limits respawn reload_signal; then
		cp "$_new"/* "$old"
		rm -rf "$_new"
		if [ -e "$old/reload_signal" ]; then
			kill -"$(cat "$old/reload_signal")" "$(cat "$old/pid")"
		else
			kill "$(cat "$old/pid")"
		fi
	else
		cp "$_new"/* "$old"
		rm -rf "$_new"
	fi
}

# Comes back at once; the instance has five seconds for its end.
_procd_end() {
	local folder=$PROCD/$1
	[ -d "$folder" ] || return 0
	mv "$folder" "$PROCD/ended.$1.$$"
	kill -TERM "$(cat "$PROCD/ended.$1.$$/supervisor")"
}

procd_kill() {
	_procd_end "$1"
	rm -f "$PROCD/triggers/$1"
}

procd_running() { ubus call service list "{\"name\":\"$1\"}" | grep -q '"running": true'; }

procd_send_signal() { # SERVICE [INSTANCE] [SIGNAL]
	kill -"${3:-HUP}" "$(cat "$PROCD/$1/pid" 2> /dev/null)" 2> /dev/null
}
procd_set_config_changed() { procd-trigger config "$1"; }
