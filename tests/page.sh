#!/usr/bin/env bash
# page.sh CERTHOOKD [PICTURE]: looks at the status page in a real headless Chromium: the daemon works on a throwaway MongoDB with sample
# organizations, the browser must show it, load the stylesheet and object to nothing. PICTURE: where to put a screenshot (PNG).
set -euo pipefail

main() { # CERTHOOKD [PICTURE]
  local certhookd=$1 uri page
  browser=$(command -v chromium-headless-shell || command -v chromium || command -v google-chrome) || fail "no Chromium is installed"
  stage=$(mktemp -d)
  trap end EXIT
  coproc SANDBOX { exec "$certhookd" sandbox; }
  # It lives as long as its standard input, and starts its output with the URI.
  read -r -t 300 uri <&"${SANDBOX[0]}" || fail "the sandbox does not start"
  CERTHOOKD_MONGODB__URI=$uri CERTHOOKD_DELIVERY__ALLOW_HTTP=true CERTHOOKD_DELIVERY__ALLOW_NETWORKS=127.0.0.0/8 \
    CERTHOOKD_SERVICE__METRICS_LISTEN=127.0.0.1:0 "$certhookd" --log-format json run 2>"$stage/log" &
  DAEMON=$!
  eventually grep -q '"message":"ready"' "$stage/log"
  page=$(grep -o '"address":"[^"]*"' "$stage/log" | cut -d'"' -f4)
  eventually shows "$page" 'class="n">2</td>'

  check "a name that looks like HTML is text" has 'Food safety &lt;old&gt;'
  check "the stylesheet is loaded and nothing is refused" lacks CONSOLE "$stage/console"
  check "there is no script" lacks "<script" "$stage/dom"
  check "on a phone nothing is off screen" on_a_phone
  [ -z "${2:-}" ] || browse --window-size=1360,1500 --screenshot="$(realpath "$2")" "http://$page/"
}

on_a_phone() { # the same page as a file, which may measure itself
  local here measure
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  measure='const cells = [...document.querySelectorAll("td, p, h2, li")].filter((cell) => cell.getBoundingClientRect().right > innerWidth);'
  cp "$here/../src/page/style.css" "$stage"
  grep -v 'http-equiv="refresh"' "$stage/dom" >"$stage/phone.html"
  echo "<script>$measure document.title = [innerWidth, cells.length];</script>" >>"$stage/phone.html"
  browse --window-size=390,844 --dump-dom "file://$stage/phone.html" 2>/dev/null | grep -qF '<title>390,0</title>'
}

end() {
  [ -z "${DAEMON:-}" ] || kill "$DAEMON"
  # The sandbox ends with its input.
  [ -z "${SANDBOX_PID:-}" ] || eval "exec ${SANDBOX[1]}>&-"
  wait
  rm -rf "$stage"
}

fail() { # WHY
  echo "FAIL - $1"
  exit 1
}

check() { # WHAT COMMAND...
  local what=$1
  shift
  "$@" || fail "$what"
  echo "ok - $what"
}

eventually() { # COMMAND...: asks until the answer is yes, for a minute at most
  local deadline=$((SECONDS + 60))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$*"
    sleep 0.2
  done
}

browse() { # ARGUMENT...
  "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$stage/profile" "$@"
}

shows() { # ADDRESS TEXT: the browser finds that in the page
  browse --enable-logging=stderr --dump-dom "http://$1/" >"$stage/dom" 2>"$stage/console" && has "$2"
}

has() { # TEXT
  grep -qF "$1" "$stage/dom"
}

lacks() { # TEXT FILE
  ! grep -iF "$1" "$2"
}

main "$@"
