#!/bin/sh
# Whether Postfix runs and the helper answers on its socket.
set -eu
kill -0 "$(cat /var/spool/postfix/pid/master.pid)"
printf 'held\n.\n' | socat -t 5 - UNIX-CONNECT:/run/mailguard/postfix.sock | tail -n 1 | grep -qx 'end 0'
