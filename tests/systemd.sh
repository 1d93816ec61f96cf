#!/usr/bin/env bash
# systemd.sh CERTHOOKD: runs that binary as systemd/certhookd.service under a real systemd, over a throwaway MongoDB, and
# shows what the unit promises. Prints a line per promise; exits with 1 if one is broken. Needs root and systemd.
set -euo pipefail
unit=certhookd.service
config=/etc/certhookd/config.toml
passed=0 failed=0

main() { # CERTHOOKD: outside, with a database that the daemon inside reaches over loopback
  local here uri code=0
  here=$(cd "$(dirname "$0")" && pwd)
  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
  install "$1" "$stage/certhookd"
  cp "$here/systemd.sh" "$here/../systemd/$unit" "$stage"
  coproc SANDBOX { exec "$stage/certhookd" sandbox; }
  # It lives as long as its standard input, and starts its output with the URI.
  read -r -t 300 uri <&"${SANDBOX[0]}" || { echo "FAIL - certhookd sandbox starts"; echo "0 passed, 1 failed"; exit 1; }
  (cd "$stage" && "$here/with-systemd.sh" ./systemd.sh --inside "$uri") || code=$?
  eval "exec ${SANDBOX[1]}>&-"
  wait "$SANDBOX_PID" || true
  exit $code
}

# --- words of the tests

check() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then passed=$((passed + 1)) && echo "ok - $what"; else failed=$((failed + 1)) && echo "FAIL - $what"; fi
}

eventually() { # COMMAND...: asks until the answer is yes, for 30 s at most
  local deadline=$((SECONDS + 30))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.05
  done
}

is() { # PROPERTY VALUE
  [ "$(systemctl show -P "$1" $unit)" = "$2" ]
}

pid() { systemctl show -P MainPID $unit; }

running() { is ActiveState active && is SubState running; }

restarted() { # OLD_PID
  running && ! is MainPID "$1"
}

quietly() { # COMMAND...
  "$@" >/dev/null 2>&1
}

refused() { # COMMAND...: fails
  ! quietly "$@"
}

logged() { # JOURNALCTL_ARGUMENT...
  [ -n "$(journalctl --quiet --output=cat --unit=$unit "$@")" ]
}

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

configure() { # TOML_LINE...: what every test needs, and these
  printf '%s\n' '[scan]' 'schedule = "0 0 0 1 1 *"' 'on_start = false' '[delivery]' 'allow_http = true' \
    'allow_networks = ["127.0.0.0/8"]' "$@" >$config
}

# --- the tests

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
    EVENT_TYPE EVENT_ID OWNER ENDPOINT ATTEMPT STATUS DURATION_MS
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
  [ $failed = 0 ] || journalctl --unit=$unit --no-hostname --lines=50
  echo "$passed passed, $failed failed"
  [ $failed = 0 ]
}

case ${1-} in
--inside) inside "$2" ;;
?*) main "$1" ;;
*) echo "usage: systemd.sh CERTHOOKD" >&2 && exit 2 ;;
esac
