#!/usr/bin/env bash
# shell-functions.sh: what the tests of the unit and of the package have in common; sourced by them.
unit=certhookd.service
config=/etc/certhookd/config.toml
passed=0 failed=0

beside_mongodb() { # SCRIPT CERTHOOKD FILE...: `SCRIPT --inside URI` in a systemd, with copies of the FILEs and a MongoDB
  local script=$1 certhookd=$2 here uri code=0
  here=$(cd "$(dirname "$script")" && pwd)
  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
  install "$certhookd" "$stage/certhookd"
  cp "$script" "$here/shell-functions.sh" "${@:3}" "$stage"
  coproc SANDBOX { exec "$stage/certhookd" sandbox; }
  # It lives as long as its standard input, and starts its output with the URI.
  if read -r -t 300 uri <&"${SANDBOX[0]}"; then
    (cd "$stage" && "$here/with-systemd.sh" "./$(basename "$script")" --inside "$uri") || code=$?
  else
    echo "FAIL - certhookd sandbox starts" && echo "0 passed, 1 failed" && code=1
  fi
  eval "exec ${SANDBOX[1]}>&-"
  wait "$SANDBOX_PID" || true
  return $code
}

conclude() {
  [ $failed = 0 ] || journalctl --unit=$unit --no-hostname --lines=50
  echo "$passed passed, $failed failed"
  [ $failed = 0 ]
}

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

configure() { # TOML_LINE...: what every test needs, and these
  printf '%s\n' '[scan]' 'schedule = "0 0 0 1 1 *"' 'on_start = false' '[delivery]' 'allow_http = true' \
    'allow_networks = ["127.0.0.0/8"]' "$@" >$config
}
