#!/usr/bin/env bash
# with-systemd.sh COMMAND...: boots a systemd of its own over this machine's files, runs COMMAND as a unit of it in a copy
# of this folder, prints what it prints and exits with its code. COMMAND may install what it likes: /etc, /usr and dpkg's
# records are overlays, the machine's units are hidden, /run, /var and /tmp are new, and all of it is gone afterwards. The
# network is this machine's. Needs root.
set -euo pipefail

private_files() { # WORK
  local work=$1 name
  mount --make-rprivate /
  # Read-only, as in a container: what systemd tunes there at boot would be the machine's.
  mount --bind /proc/sys /proc/sys
  mount -o remount,bind,ro /proc/sys
  umount -l /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount -t tmpfs tmpfs /run
  mkdir -p /run/lock /run/here
  cp -a . /run/here/
  cp "$work/command" /run/command
  touch /run/output
  mount --bind "$work/output" /run/output
  for name in etc usr var/lib/dpkg; do
    mkdir -p "/run/overlay/$name/upper" "/run/overlay/$name/work" "/run/overlay/$name/all"
    mount -t overlay overlay "/run/overlay/$name/all" \
      -o "lowerdir=/$name,upperdir=/run/overlay/$name/upper,workdir=/run/overlay/$name/work"
  done
  mount -t tmpfs tmpfs /var
  mkdir -p /var/lib/dpkg /var/log /var/tmp
  for name in etc usr var/lib/dpkg; do mount --move "/run/overlay/$name/all" "/$name"; done
  # Last, since WORK may lie there.
  mount -t tmpfs tmpfs /tmp
  chmod 1777 /tmp /var/tmp
  # As systemd expects of a container's root: credentials reach a unit through shared mounts.
  mount --make-rshared /
}

units() { # Just a journal and COMMAND: a whole boot would set up the machine's devices and network.
  local folder
  mkdir -p /run/units /run/systemd/system /etc/systemd/system
  cd /lib/systemd/system
  cp sysinit.target basic.target shutdown.target systemd-journald.{service,socket} /run/units/
  for folder in /lib /etc; do mount -t tmpfs tmpfs $folder/systemd/system; done
  cp /run/units/* /lib/systemd/system/
  cat >/run/systemd/system/command.service <<'UNIT'
[Unit]
Description=The command under test
DefaultDependencies=no
Requires=systemd-journald.service
After=systemd-journald.service
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=300
WorkingDirectory=/run/here
ExecStart=/bin/bash /run/command
StandardOutput=file:/run/output
StandardError=inherit
UNIT
}

if [ "${1-}" = --boot ]; then
  private_files "$2"
  units
  export container=with-systemd SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/system:/lib/systemd/system
  exec /lib/systemd/systemd --unit=command.service --show-status=no --log-target=journal
fi

[ $# -gt 0 ] || { echo "usage: with-systemd.sh COMMAND..." >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "with-systemd.sh: needs root, for file systems of its own" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{ export -p; echo "export TMPDIR=/tmp"; printf '%q ' "$@"; } >"$work/command"
mkfifo "$work/output"
cat "$work/output" &
code=0
unshare --mount --pid --fork --kill-child --mount-proc --uts --ipc --cgroup \
  bash "$0" --boot "$work" </dev/null || code=$?
# Lets `cat` go if nothing came to write.
: <>"$work/output"
wait
exit $code
