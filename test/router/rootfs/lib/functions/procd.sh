# shellcheck shell=dash
# Stand-in for procd and its shell library. An instance is a folder /var/run/procd/SERVICE with
# one file a parameter; /sbin/procd-instance runs it. `set` does what procd's does: nothing if
# nothing changed, the reload signal or a restart if something did, a stop if there is no
# instance any more.

PROCD=/var/run/procd

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

# Service data: one line KEY=VALUE a string, a blank line behind every object.
procd_open_data() { : > "$_new/data"; }
procd_close_data() { return 0; }
json_add_array() { return 0; }
json_close_array() { return 0; }
json_add_object() { return 0; }
json_add_string() { echo "$1=$2" >> "$_new/data"; }
json_close_object() { echo >> "$_new/data"; }

procd_add_reload_trigger() { echo "config $1" >> "$_triggers"; }
procd_add_reload_interface_trigger() { echo "interface $1" >> "$_triggers"; }

_procd_differs() { # FILE...
	local file
	for file in "$@"; do
		[ "$(cat "$_new/$file" 2> /dev/null)" = "$(cat "$PROCD/$_service/$file" 2> /dev/null)" ] || return 0
	done
	return 1
}

procd_close_service() {
	local old=$PROCD/$_service data_before data_after
	data_before=$(cat "$old/data" 2> /dev/null)
	data_after=$(cat "$_new/data" 2> /dev/null)
	_triggers=$PROCD/triggers/$_service
	: > "$_triggers"
	service_triggers
	if [ ! -d "$_new" ]; then
		_procd_end "$_service"
	elif [ ! -d "$old" ]; then
		mv "$_new" "$old"
		start-stop-daemon -S -b -x /sbin/procd-instance -- "$old"
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
	[ "$data_before" = "$data_after" ] || procd-trigger data
}

_procd_end() {
	local folder=$PROCD/$1 pid
	[ -d "$folder" ] || return 0
	pid=$(cat "$folder/supervisor")
	mv "$folder" "$folder.ended"
	kill -TERM "$pid"
	while [ -d "/proc/$pid" ]; do usleep 20000; done
	rm -rf "$folder.ended"
}

procd_kill() {
	local data
	data=$(cat "$PROCD/$1/data" 2> /dev/null)
	_procd_end "$1"
	rm -f "$PROCD/triggers/$1"
	[ -z "$data" ] || procd-trigger data
}

procd_send_signal() { kill -"${3:-HUP}" "$(cat "$PROCD/$1/pid")"; }
procd_set_config_changed() { procd-trigger config "$1"; }
