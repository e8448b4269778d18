#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fetch-austen.sh [OUT]: six novels by Jane Austen (public domain, 4 MB of English prose) into
# data/austen.txt, from the Debian package r-cran-janeaustenr. The package is unpacked into a
# temporary folder and not installed; R is not needed. OUT appears whole, with the right
# checksum, or not at all; an OUT that is right already is left alone.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$root/data/austen.txt}
sha256=65b434d16a8755142bfa95ba19c5f9abd0d30cf3dffe3b6793e834f9f56dcc96
package=r-cran-janeaustenr
rdb=usr/lib/R/site-library/janeaustenr/data/Rdata.rdb

say() { printf 'fetch-austen: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
right() { [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$sha256" ]; }

if right "$out"; then
  say "$out is there and right"
  exit 0
fi
command -v dpkg-deb >/dev/null || die "no dpkg-deb here; this script needs Debian or a relative of it"
command -v python3 >/dev/null || die "no python3 here; install python3"

tmp=$(mktemp -d)
partial=
trap 'rm -rf "$tmp" ${partial:+"$partial"}' EXIT
chmod 755 "$tmp" # apt downloads as its own user where it can

# apt-get download writes into the current folder
download() { (cd "$tmp" && apt-get -qq download "$package" >"$tmp/apt.log" 2>&1); }

if [ -f "/$rdb" ]; then
  say "the package $package is installed: using its file"
  source=/$rdb
else
  say "downloading the Debian package $package (1.6 MB)"
  if ! download; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "no package list knows it: running ${sudo:+sudo }apt-get update"
    $sudo apt-get -qq update >&2 || die "apt-get update failed; is there a network?"
    download || die "apt-get download $package failed: $(tail -n 1 "$tmp/apt.log")"
  fi
  dpkg-deb -x "$tmp/$package"_*.deb "$tmp/x" || die "cannot unpack $package"
  source=$tmp/x/$rdb
  [ -f "$source" ] || die "$package holds no $rdb; its layout has changed"
fi

mkdir -p "$(dirname "$out")"
partial=$(mktemp "$out.XXXXXX")
python3 "$root/tools/austen.py" "$source" >"$partial"
right "$partial" || die "the text of $source has sha256 $(sha256sum <"$partial" | cut -d' ' -f1), wanted $sha256"
chmod 644 "$partial"
mv "$partial" "$out"
partial=
say "wrote $out ($(stat -c %s "$out") bytes)"
