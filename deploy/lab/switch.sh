#!/bin/bash
# A switch with a Cisco-like command line, for tests: login (unless SSH has done
# it), enable, configuration mode, paging, questions, errors. Its state is the
# directory $SWITCH_DIR.
dir=${SWITCH_DIR:-${0%/*}}
host=$(cat "$dir/hostname")
mode=user paging=24

ask() { # prompt, hidden
	printf '%s' "$1"
	if [ -n "$2" ]; then stty -echo; IFS= read -r reply; local rc=$?; stty echo; echo; return $rc; fi
	IFS= read -r reply
}

login() {
	printf '\r\nUser Access Verification\r\n\r\n'
	for _ in 1 2 3; do
		ask 'Username: ' || exit
		local user=$reply
		ask 'Password: ' hidden || exit
		[ "$user" = admin ] && [ "$reply" = "$(cat "$dir/password")" ] && return
		printf '%% Login invalid\n\n'
	done
	exit
}

page() { # pages stdin as IOS does, erasing its own prompt
	local n=0 line key
	while IFS= read -r line <&3; do
		if [ "$paging" -gt 0 ] && [ $n -eq "$paging" ]; then
			printf ' --More-- '
			stty -echo -icanon; IFS= read -rn1 -d '' key; stty echo icanon
			printf '\b\b\b\b\b\b\b\b\b\b          \b\b\b\b\b\b\b\b\b\b'
			[ "$key" = q ] && break
			n=0
		fi
		echo "$line"
		n=$((n + 1))
	done
}

running() {
	echo 'Building configuration...'
	echo
	echo "Current configuration : $RANDOM bytes"
	echo '!'
	echo "! Last configuration change at $(date +%H:%M:%S.%N) by admin"
	echo '!'
	echo "hostname $host"
	echo '!'
	for i in $(seq 1 48); do printf 'interface GigabitEthernet0/%s\n description port %s\n!\n' "$i" "$i"; done
	cat "$dir/lines" 2>/dev/null
	echo "ntp clock-period $RANDOM"
	echo end
}

invalid() { printf "         ^\n%% Invalid input detected at '^' marker.\n\n"; }

[ -n "$SSH_CONNECTION" ] || login
while :; do
	case $mode in
	user) p="$host>" ;;
	exec) p="$host#" ;;
	*) p="$host($mode)#" ;;
	esac
	ask "$p" || exit
	set -- $reply
	case "$mode:$reply" in
	*:) ;;
	*:'terminal length '*) paging=$3 ;;
	*:'terminal width '*) ;;
	*:'show version') printf 'Cisco-like Software, Version 1.0\n\033[1muptime\033[0m is 3 weeks\n' ;;
	*:'show inventory') seq -f 'line %.0f' 1 100 > "$dir/inventory.$$"; page 3< "$dir/inventory.$$"; rm "$dir/inventory.$$" ;;
	*:'show big '*) seq -f 'row %.0f of a long listing that goes on for a while, as they do' 1 "$3" ;;
	*:'flood') yes 'this line never ends' ;;
	*:'hang') sleep 600 ;;
	*:'drop') kill -9 $$ ;;
	*:'half') printf 'Reading half of a line and then no'; sleep 600 ;;
	*:'mark '*) echo "$2" >> "$dir/marks" ;;
	user:enable)
		ask 'Password: ' hidden || exit
		if [ "$reply" = "$(cat "$dir/enable")" ]; then mode=exec; else echo '% Access denied'; fi ;;
	exec:'show running-config') running > "$dir/running.$$"; page 3< "$dir/running.$$"; rm "$dir/running.$$" ;;
	exec:'configure terminal') echo 'Enter configuration commands, one per line.  End with CNTL/Z.'; mode=config ;;
	exec:'copy running-config startup-config')
		ask 'Destination filename [startup-config]? ' || exit
		printf 'Building configuration...\n[OK]\n'
		echo saved > "$dir/saved" ;;
	exec:reload)
		ask 'Proceed with reload? [confirm]' || exit
		echo; exit ;;
	exec:disable) mode=user ;;
	config*:end) mode=exec ;;
	config:exit) mode=exec ;;
	config-if:exit) mode=config ;;
	config*:'hostname '*) host=$2; echo "$2" > "$dir/hostname" ;;
	config*:'interface '*) mode=config-if; echo "$reply" >> "$dir/lines" ;;
	config*:'bad'*) invalid ;;
	config*:*) echo "$reply" >> "$dir/lines" ;;
	*:exit) exit ;;
	*) invalid ;;
	esac
done
