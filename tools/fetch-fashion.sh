#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fetch-fashion.sh [DIR]: Fashion-MNIST (70,000 labelled pictures of 28 x 28 pixels) into
# data/fashion, from the Debian package dataset-fashion-mnist. The package is unpacked into a
# temporary folder and not installed. Each file appears whole, with the right checksum, or not at
# all; files that are right already are left alone.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$root/data/fashion}
package=dataset-fashion-mnist
folder=usr/share/datasets/fashion-mnist
files=(
  "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b t10k-images-idx3-ubyte"
  "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 t10k-labels-idx1-ubyte"
  "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 train-images-idx3-ubyte"
  "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 train-labels-idx1-ubyte"
)

say() { printf 'fetch-fashion: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
sum() { sha256sum <"$1" | cut -d' ' -f1; }
right() { # all files are there, with their checksums
  local line
  for line in "${files[@]}"; do
    [ -f "$out/${line#* }" ] && [ "$(sum "$out/${line#* }")" = "${line%% *}" ] || return 1
  done
}

if right; then
  say "$out is there and right"
  exit 0
fi
command -v dpkg-deb >/dev/null || die "no dpkg-deb here; this script needs Debian"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp" # apt downloads as its own user where it can

# apt-get download writes into the current folder
download() { (cd "$tmp" && apt-get -qq download "$package" >"$tmp/apt.log" 2>&1); }

if [ -d "/$folder" ]; then
  say "the package $package is installed: using its files"
  source=/$folder
else
  say "downloading the Debian package $package (31 MB)"
  if ! download; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "no package list knows it: running ${sudo:+sudo }apt-get update"
    $sudo apt-get -qq update >&2 || die "apt-get update failed; is there a network?"
    download || die "apt-get download $package failed: $(tail -n 1 "$tmp/apt.log")"
  fi
  dpkg-deb -x "$tmp/$package"_*.deb "$tmp/x" || die "cannot unpack $package"
  source=$tmp/x/$folder
fi

mkdir -p "$out"
for line in "${files[@]}"; do
  name=${line#* }
  [ -f "$source/$name.gz" ] || die "$package holds no $folder/$name.gz; its layout has changed"
  gunzip -c "$source/$name.gz" >"$tmp/$name"
  have=$(sum "$tmp/$name")
  [ "$have" = "${line%% *}" ] || die "$name has sha256 $have, wanted ${line%% *}"
  partial=$(mktemp "$out/$name.XXXXXX")
  cp "$tmp/$name" "$partial"
  chmod 644 "$partial"
  mv "$partial" "$out/$name"
done
say "wrote ${#files[@]} files into $out"
