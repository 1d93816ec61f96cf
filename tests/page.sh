#!/usr/bin/env bash
# page.sh CERTHOOKD [PICTURE]: looks at the status page, at the page of an endpoint and at the search in a real headless Chromium: the
# daemon works on a throwaway MongoDB with sample organizations, the browser must show them, load the stylesheet and object to nothing.
# PICTURE: where to put a screenshot (PNG) of the first; those of the others, and as on a phone, are put beside it.
set -euo pipefail

main() { # CERTHOOKD [PICTURE]
  local certhookd=$1 uri page endpoint show
  browser=$(command -v chromium-headless-shell || command -v chromium || command -v google-chrome) || fail "no Chromium is installed"
  stage=$(mktemp -d)
  trap end EXIT
  coproc SANDBOX { exec "$certhookd" sandbox; }
  # It lives as long as its standard input, and starts its output with the URI.
  read -r -t 300 uri <&"${SANDBOX[0]}" || fail "the sandbox does not start"
  export CERTHOOKD_MONGODB__URI=$uri CERTHOOKD_DELIVERY__ALLOW_HTTP=true CERTHOOKD_SERVICE__METRICS_LISTEN=127.0.0.1:0
  CERTHOOKD_DELIVERY__ALLOW_NETWORKS=127.0.0.0/8 daemon
  eventually shows "$page/" 'class="n">2</td>'

  check "a name that looks like HTML is text" has 'Food safety &lt;old&gt;'
  looks_right "$page/" "${2:-}"

  # Without the network of its receivers everything fails: sent again, it is dead after two attempts.
  endpoint=$(first_link endpoint/ "$(cat "$stage/dom")")
  stop
  CERTHOOKD_DELIVERY__MAX_ATTEMPTS=2 CERTHOOKD_DELIVERY__RETRY_WINDOW=2s daemon
  "$certhookd" replay --all --state delivered >"$stage/replayed"
  "$certhookd" hold --endpoint "${endpoint#endpoint/}" --by page.sh --reason "<b>a picture</b>" >>"$stage/replayed"
  eventually shows "$page/" 'class="bad">failing</span>'
  check "what is held is said, as text" has '&lt;b&gt;a picture&lt;/b&gt;'
  endpoint=$(failing_endpoint)
  eventually shows "$page/$endpoint" '<td data-label="died"'
  check "a failure leads to all that is known" has 'href="../../show?id='
  show=$(first_link 'show?id=' "$(cat "$stage/dom")")
  looks_right "$page/$endpoint" "${2:+${2%.png}-endpoint.png}"

  eventually shows "$page/$show" 'data-label="what"'
  looks_right "$page/$show" "${2:+${2%.png}-show.png}"
}

looks_right() { # ADDRESS [PICTURE]: what was shown last
  check "the stylesheet is loaded and nothing is refused" lacks CONSOLE "$stage/console"
  check "there is no script" lacks "<script" "$stage/dom"
  check "on a phone nothing is off screen" nothing_off_screen 390
  check "nor on a desk" nothing_off_screen 1360
  [ -z "${2:-}" ] || browse --window-size=1360,1500 --screenshot="$(realpath "$2")" "http://$1"
  [ -z "${2:-}" ] || picture_of_phone "$(realpath "${2%.png}-phone.png")"
}

failing_endpoint() { # those with trouble come first
  tr '\n' ' ' <"$stage/dom" | sed 's/<tr>/\n&/g' >"$stage/rows"
  first_link 'endpoint/' "$(grep -m 1 'class="bad">failing</span>' "$stage/rows")"
}

first_link() { # START HTML: where the first that begins so leads
  local after=${2#*href=\"*"$1"}
  echo "$1${after%%\"*}"
}

daemon() { # starts it; `page` is where it serves
  "$certhookd" --log-format json run 2>"$stage/log" &
  DAEMON=$!
  eventually grep -q '"message":"ready"' "$stage/log"
  page=$(grep -o '"address":"[^"]*"' "$stage/log" | cut -d'"' -f4)
}

stop() {
  kill "$DAEMON"
  wait "$DAEMON"
  DAEMON=
}

nothing_off_screen() { # WIDTH: the same page as a file, which may measure itself
  local here measure
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  measure='const cells = [...document.querySelectorAll("td, p, h1, h2, li, form, button, code")].filter((cell) => !cell.closest(".wide") || innerWidth < 720);
    const off = cells.filter((cell) => cell.getBoundingClientRect().right > innerWidth || cell.getBoundingClientRect().left < 0);'
  cp "$here/../src/page/style.css" "$stage"
  grep -v 'http-equiv="refresh"' "$stage/dom" | sed 's|href="[./]*style.css"|href="style.css"|' >"$stage/phone.html"
  cp "$stage/phone.html" "$stage/measured.html"
  echo "<script>$measure document.title = [innerWidth, document.documentElement.scrollWidth, off.length];</script>" >>"$stage/measured.html"
  browse --window-size="$1,844" --dump-dom "file://$stage/measured.html" 2>/dev/null | grep -qF "<title>$1,$1,0</title>"
}

picture_of_phone() { # FILE
  browse --window-size=390,1700 --screenshot="$1" "file://$stage/phone.html"
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
  browse --enable-logging=stderr --dump-dom "http://$1" >"$stage/dom" 2>"$stage/console" && has "$2"
}

has() { # TEXT
  grep -qF "$1" "$stage/dom"
}

lacks() { # TEXT FILE
  ! grep -iF "$1" "$2"
}

main "$@"
