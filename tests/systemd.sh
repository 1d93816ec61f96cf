#!/usr/bin/env bash
# systemd.sh CERTHOOKD: runs that binary as systemd/certhookd.service under a real systemd, over a throwaway MongoDB, and
# shows what the unit promises. Prints a line per promise; exits with 1 if one is broken. Needs root and systemd.
set -euo pipefail
source "$(dirname "$0")/shell-functions.sh"

has_fields() { # JOURNALCTL_MATCH... -- FIELD...: the entry has these fields and none is empty
  local matches=() entry field
  while [ "$1" != -- ]; do matches+=("$1") && shift; done
  shift
  entry=$(journalctl --unit=$unit --output=verbose --lines=1 "${matches[@]}")
  for field; do grep -q "^ *$field=." <<<"$entry" || { echo "no $field in: $entry" && return 1; }; done
}

drop_in() { # NAME LINE...: more for the unit's [Service]
  local name=$1
  shift
  mkdir -p /run/systemd/system/$unit.d
  printf '%s\n' '[Service]' "$@" >"/run/systemd/system/$unit.d/$name.conf"
  systemctl daemon-reload
}

analyzed() {
  check "systemd-analyze verify has nothing to say" test -z "$(systemd-analyze verify $unit 2>&1)"
  check "security exposure is 1.5 or less" quietly \
    systemd-analyze security --offline=true --threshold=15 "/run/systemd/system/$unit"
}

refuses_to_start() {
  configure '[queue]' 'capacty = 1'
  check "a bad configuration does not start" refused systemctl start $unit
  check "it exits with 78" is ExecMainStatus 78
  check "it is not restarted" is ActiveState failed
  check "the journal names the bad key" logged --grep=capacty
}

starts() {
  configure
  # A delivery that succeeds at once is logged at DEBUG.
  drop_in talkative Environment=CERTHOOKD_LOG=certhookd=debug,warn
  check "starts" systemctl start $unit
  check "is active (running)" running
  check "has a STATUS line" test -n "$(systemctl show -P StatusText $unit)"
  check "is not root" test "$(stat -c %u "/proc/$(pid)")" != 0
}

scans() {
  check "nothing was sent without being asked" refused logged EVENT_TYPE=certificate_expired
  systemctl kill --signal=USR1 $unit
  check "scans on SIGUSR1 and delivers" eventually logged EVENT_TYPE=certificate_expired STATUS=200
  check "the fields of a delivery read back" has_fields EVENT_TYPE=certificate_expired STATUS=200 -- \
    EVENT_TYPE EVENT_ID ORGANIZATION ENDPOINT ATTEMPT STATUS DURATION_MS
  check "INFO has the priority info" logged _COMM=certhookd PRIORITY=6
}

reloads() {
  local before
  before=$(pid)
  configure '[queue]' 'capacity = 512'
  check "reloads" systemctl reload $unit
  check "says so" eventually logged --grep=reloaded
  configure '[queue]' 'capacty = 512'
  check "refuses a bad reload" refused systemctl reload $unit
  configure '[mongodb]' "uri = \"$uri\""
  check "refuses a reload with a connection string in two places" refused systemctl reload $unit
  configure '[queue]' 'capacity = 512'
  chmod 600 /etc/certhookd/config.toml
  check "refuses a reload with a file that the daemon can't read" refused systemctl reload $unit
  chmod 644 /etc/certhookd/config.toml
  check "keeps running" running
  check "as the same process" is MainPID "$before"
  configure
}

restarts() {
  local before
  before=$(pid)
  systemctl kill --signal=KILL $unit
  check "restarts after SIGKILL" eventually restarted "$before"
}

stops() {
  systemctl stop $unit
  check "stops" is ActiveState inactive
  check "cleanly" is Result success
  check "with exit code 0" is ExecMainStatus 0
}

is_watched() {
  local before
  rm /etc/credstore/mongodb-uri
  configure '[mongodb]' "uri = \"$uri\""
  drop_in impatient WatchdogSec=2s TimeoutAbortSec=1s
  check "starts without a credential too" systemctl start $unit
  before=$(pid)
  systemctl kill --signal=STOP $unit
  check "restarts when frozen" eventually restarted "$before"
  check "by the watchdog" logged --grep="Watchdog timeout"
}

inside() { # URI
  uri=$1
  install certhookd /usr/bin/
  cp $unit /run/systemd/system/
  install -d /etc/certhookd /etc/credstore
  install -m 600 /dev/stdin /etc/credstore/mongodb-uri <<<"$uri"
  systemctl daemon-reload
  analyzed
  refuses_to_start
  starts
  scans
  reloads
  restarts
  stops
  is_watched
  conclude
}

case ${1-} in
--inside) inside "$2" ;;
?*) beside_mongodb "$0" "$1" "$(dirname "$0")/../systemd/$unit" ;;
*) echo "usage: systemd.sh CERTHOOKD" >&2 && exit 2 ;;
esac
