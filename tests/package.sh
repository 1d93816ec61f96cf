#!/usr/bin/env bash
# package.sh CERTHOOKD: packages the release build twice, as an old and a new revision, and under a real systemd installs,
# starts, upgrades, removes and purges it. CERTHOOKD lends a throwaway MongoDB. Prints a line per promise; exits with 1 if
# one is broken. Needs root, systemd, dpkg and cargo-deb.
set -euo pipefail
source "$(dirname "$0")/shell-functions.sh"

packaged() { # CERTHOOKD
  local packages revision deb code=0
  packages=$(mktemp -d)
  deb=$(cd "$(dirname "$0")/../systemd" && pwd)/deb.sh
  for revision in 1 2; do "$deb" --fast --deb-revision=$revision --output="$packages/$revision.deb" >/dev/null; done
  beside_mongodb "$0" "$1" "$packages"/{1,2}.deb || code=$?
  rm -r "$packages"
  return $code
}

has_files() { # PACKAGE PATH...
  local contents path
  contents=$(dpkg-deb --contents "$1")
  for path in "${@:2}"; do grep -q " \./$path$" <<<"$contents" || { echo "no $path" && return 1; }; done
}

has_changes_of() { # PACKAGE VERSION: its changelog tells of that version
  dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/share/doc/certhookd/changelog.gz | zcat | grep -F "## [$2]" >/dev/null
}

links_lead_somewhere() { # PACKAGE: those of its documents
  local folder page target lost=0
  folder=$(mktemp -d)
  dpkg-deb --extract "$1" "$folder"
  while IFS= read -r page; do
    while IFS= read -r target; do
      [ -e "$(dirname "$page")/$target" ] || { echo "${page#"$folder"} leads to $target" && lost=1; }
    done < <(sed '/^```/,/^```/d; s/`[^`]*`//g' "$page" | grep -oE '\]\([^)#:]+[)#]' | sed 's|^..||; s|.$||')
  done < <(find "$folder" -name '*.md')
  rm -r "$folder"
  return $lost
}

traces() { # what is left of it on the machine
  find /etc /usr/bin /usr/lib /usr/share /var/lib -name '*certhookd*'
}

is_complete() {
  check "has binary, configuration and unit" has_files 1.deb \
    usr/bin/certhookd etc/certhookd/config.toml usr/lib/systemd/system/certhookd.service
  check "has a manual page for every command" has_files 1.deb \
    usr/share/man/man1/certhookd{,-run,-check,-scan,-status,-replay,-show,-deliveries,-send-test,-events,-demo,-hold,-release,-cancel,-backfill,-erase,-health}.1.gz
  check "has completions for bash, zsh and fish" has_files 1.deb usr/share/bash-completion/completions/certhookd \
    usr/share/zsh/vendor-completions/_certhookd usr/share/fish/vendor_completions.d/certhookd.fish
  check "has licence and changelog" has_files 1.deb usr/share/doc/certhookd/{copyright,changelog.gz}
  check "has the documents, where their links look for them" has_files 1.deb usr/share/doc/certhookd/{README.md,config.toml} \
    usr/share/doc/certhookd/docs/{operate.md,openapi.yaml,status-page.png,schemas/certificate_expired.schema.json,monitoring/alerts.yml,deploy/compose.yaml}
  check "every link of a document leads to a file of the package" links_lead_somewhere 1.deb
  check "changelog tells of this version" has_changes_of 1.deb "$(./certhookd --version | cut -d' ' -f2)"
  check "config.toml is a configuration file to dpkg" test "$(dpkg-deb --info 1.deb conffiles)" = $config
}

installs() {
  check "installs" quietly dpkg --install 1.deb
  mv /etc/credstore/mongodb-uri uri
  check "the connection string is all that is missing" \
    test "$(certhookd check --config-only | grep -c '^FAIL')$(certhookd check --config-only | grep -c 'mongodb.uri: ')" = 11
  mv uri /etc/credstore/mongodb-uri
  check "does not run before it is asked to" is ActiveState inactive
  check "nor will it after a boot" refused systemctl is-enabled $unit
  configure
  cp $config mine.toml
  check "finds the connection by hand" quietly certhookd check
  check "starts once the connection is known" quietly systemctl enable --now $unit
  check "is active (running)" running
}

upgrades() {
  local before
  before=$(pid)
  check "upgrades" quietly dpkg --install 2.deb
  check "restarts with it" eventually restarted "$before"
  check "is still enabled" quietly systemctl is-enabled $unit
  check "keeps a changed configuration" cmp $config mine.toml
  quietly systemctl disable --now $unit
  check "upgrades when stopped" quietly dpkg --install 1.deb
  check "and stays so" is ActiveState inactive
  quietly systemctl enable --now $unit
}

removes() {
  check "removes" quietly dpkg --remove certhookd
  check "stops" is MainPID 0
  check "keeps the configuration" cmp $config mine.toml
  check "leaves no program" refused test -e /usr/bin/certhookd
  check "comes back" quietly dpkg --install 2.deb
  check "purges" quietly dpkg --purge certhookd
  check "leaves nothing" test -z "$(traces)"
}

inside() { # URI
  # Images of Debian for containers forbid packages to start or stop anything.
  rm -f /usr/sbin/policy-rc.d
  install -D -m 600 /dev/stdin /etc/credstore/mongodb-uri <<<"$1"
  is_complete
  installs
  upgrades
  removes
  conclude
}

case ${1-} in
--inside) inside "$2" ;;
?*) packaged "$1" ;;
*) echo "usage: package.sh CERTHOOKD" >&2 && exit 2 ;;
esac
