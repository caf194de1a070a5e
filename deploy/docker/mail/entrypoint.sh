#!/bin/sh
# Starts Redis, rspamd, the helper's socket and Postfix. When one of them ends, all end, and the engine starts
# the container anew.
set -eu

LOG=/var/log/mailguard/mail.log
# As much as the gateway reads of it at its start.
LOG_BYTES_MAX=67108864
override=/etc/rspamd/override.d

secret() {
  cat "/run/secrets/$1"
}

# Text for a file of rspamd's that its account may read, and nobody else.
rspamd_file() {
  cat >"$override/$1"
  chown root:_rspamd "$override/$1"
  chmod 640 "$override/$1"
}

configure() {
  mkdir -p "$override"
  rspamd_file mailguard_ingest.inc <<EOF
url = "$MAIL_GATEWAY/api/v1/mail/quarantine";
password = "$(secret ingest_password)";
EOF
  # The gateway is another container: no address is let in without the password.
  rspamd_file worker-controller.inc <<EOF
bind_socket = "*:11334";
password = "$(rspamadm pw --encrypt --quiet --password "$(secret rspamd_password)")";
secure_ip = [];
EOF
  rspamd_file worker-proxy.inc <<EOF
quarantine_on_reject = $MAIL_HOLD_REJECTED;
EOF
  rspamd_file logging.inc <<EOF
type = "console";
EOF
  postconf -e "myhostname = $MAIL_HOSTNAME" "relay_domains = $MAIL_DOMAINS" \
    "relayhost = $MAIL_NEXT_HOP"
}

stop() {
  trap '' TERM INT
  postfix stop >/dev/null 2>&1 || :
  kill $pids 2>/dev/null || :
  wait
  exit "$1"
}

# The former log stays beside it, where the gateway looks for it.
rotate() {
  size=$(stat -c %s "$LOG" 2>/dev/null) || return 0
  [ "$size" -gt "$LOG_BYTES_MAX" ] || return 0
  mv -f "$LOG" "$LOG.1"
  postfix reload || :
}

configure
install -d -o _rspamd -g _rspamd /run/rspamd
pids=
trap 'stop 0' TERM INT
setpriv --reuid redis --regid redis --clear-groups \
  redis-server --bind 127.0.0.1 --dir /var/lib/redis &
pids="$pids $!"
rspamd -f -u _rspamd -g _rspamd &
pids="$pids $!"
# Each connection is one request and starts the helper once.
socat UNIX-LISTEN:/run/mailguard/postfix.sock,fork,max-children=32,unlink-early,group=mailguard,mode=0660 \
  EXEC:/usr/local/libexec/mailguard-postfix,nofork &
pids="$pids $!"
postfix start-fg &
pids="$pids $!"

while :; do
  sleep 5 &
  # Also takes notice of those that have ended, whose ids would be there for ever otherwise.
  wait $! || :
  for pid in $pids; do
    kill -0 "$pid" 2>/dev/null || stop 1
  done
  rotate
done
