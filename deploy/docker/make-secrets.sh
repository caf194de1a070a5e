#!/bin/sh
# Makes the secrets of docker-compose.yml, each once: what is there is left as it is. They go beside this file, or
# into the directory that is named.
set -eu
umask 077
cd "$(dirname "$0")"
secrets=${1:-secrets}

random() {
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

# Everybody may read the files, for in a container they are read by an account of its own; only their owner may
# enter the directory.
keep() {
  [ -e "$secrets/$1" ] || printf '%s\n' "$2" >"$secrets/$1"
  chmod 444 "$secrets/$1"
}

mkdir -p "$secrets"
chmod 700 "$secrets"
for name in database_password ingest_password rspamd_password; do
  keep "$name" "$(random)"
done
keep database_url "postgres://mailguard:$(cat "$secrets/database_password")@database:5432/mailguard"
