#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh: a stranger's plugins. Installs the built mrun into a temporary root, builds copies of
# examples/ against that installation alone (pkg-config is all they get), checks each plugin, and
# trains a few steps with it; then a program that embeds libmrun, on a model trained just before.
# Environment: MRUN_SOURCE, MRUN_BUILD; MRUN_SANITIZE, what the build has of -Db_sanitize.
#   run.sh [NAME...]     default: every folder of examples/
set -euo pipefail
source_dir=${MRUN_SOURCE:?run through meson test} build_dir=${MRUN_BUILD:?run through meson test}

work=$(mktemp -d "${TMPDIR:-/tmp}/mrun-outside-XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'FAIL %s\n' "$*" >&2; exit 1; }
# what a command says is shown only if it fails
quiet() { "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "$*"; }; }

# ---- install, and point the .pc file at where the installation now lies ------------------
quiet meson install -C "$build_dir" --no-rebuild --destdir "$work/root"
pc=$(find "$work/root" -name mrun-1.pc)
[ -n "$pc" ] || fail "the installation has no mrun-1.pc"
prefix=$(sed -n 's/^prefix=//p' "$pc")
sed -i "s|^prefix=.*|prefix=$work/root$prefix|" "$pc"
mrun=$(find "$work/root" -path '*/bin/mrun' -type f)
[ -x "$mrun" ] || fail "the installation has no bin/mrun"

# A clean environment: nothing of the checkout or of the test harness reaches the examples.
clean=(env -i "PATH=$PATH" "HOME=$work" "LANG=C" "PKG_CONFIG_PATH=$(dirname "$pc")")
embed_flags=(-Wall -Wextra -Werror)
if [ -n "${MRUN_SANITIZE:-}" ]; then
  for v in ASAN_OPTIONS UBSAN_OPTIONS LSAN_OPTIONS; do [ -z "${!v:-}" ] || clean+=("$v=${!v}"); done
  embed_flags+=("-fsanitize=$MRUN_SANITIZE") # a sanitizer's runtime must be the first library loaded
fi
plugins=$("${clean[@]}" pkg-config --variable=plugindir mrun-1)
[ -d "$plugins" ] || fail "plugindir of mrun-1.pc is $plugins, which does not exist"
# a moved installation finds its plugins in ../lib; one with another libdir has to be told
[ "$plugins" -ef "$(dirname "$mrun")/../lib/mrun/plugins-1" ] || clean+=("MRUN_PLUGIN_PATH=$plugins")
outside() { (cd "$work" && "${clean[@]}" "$@"); }

loss() { sed -n 's/.*"loss": *\([-+.0-9eE]*\).*/\1/p' "$1" | sed -n "$2"; }

# ---- shard/fsdp: from its own folder, against the installation, in the place of the built-in one ---
fsdp() {
  local dir=$work/fsdp run=$work/run-fsdp n
  rm "$plugins/fsdp.so"
  cp -r "$source_dir/plugins/shard/fsdp" "$dir" && rm -rf "$dir/build"
  quiet outside meson setup "$dir/build" "$dir" --fatal-meson-warnings -Dwerror=true
  quiet outside ninja -C "$dir/build"
  quiet outside "$mrun" check "$dir/build/fsdp.so"
  quiet outside meson install -C "$dir/build" --no-rebuild
  # the same run with another plugin: one word
  for word in fsdp distopt; do
    quiet outside "$mrun" "$dir/fsdp.ini" --set "run.dir=$run-$word" --set "shard.plugin=$word"
    for n in 1p '$p'; do loss "$run-$word/log.jsonl" "$n"; done >"$work/$word.losses"
  done
  # equal to 1e-4: the two sum micro-batches in another order
  paste "$work/fsdp.losses" "$work/distopt.losses" |
    awk 'function abs(x) { return x < 0 ? -x : x } abs($1 - $2) > 1e-4 * $1 { bad = 1 } { last[NR] = $1 }
         END { exit !(NR == 2 && !bad && last[2] < last[1]) }' ||
    fail "fsdp: losses $(paste -sd' ' "$work/fsdp.losses" "$work/distopt.losses")"
  printf 'ok   %-12s losses %s\n' fsdp "$(paste -sd' ' "$work/fsdp.losses")"
}

# ---- one example: build, one symbol, check, train -------------------------------------------
try() {
  local name=$1 dir=$work/examples/$1 so ini run first last
  cp -r "$source_dir/examples/$name" "$dir" && rm -rf "$dir/build"
  quiet outside meson setup "$dir/build" "$dir" --fatal-meson-warnings -Dwerror=true
  quiet outside ninja -C "$dir/build"
  # $work itself may lie in the source tree, where TMPDIR does
  if sed "s|$work||g" "$dir/build/compile_commands.json" | grep -F "$source_dir/" >/dev/null; then
    fail "$name: its build reaches into the source tree"
  fi
  so=$(find "$dir/build" -maxdepth 1 -name '*.so')
  [ "$(nm -D --defined-only "$so" | awk '{print $3}')" = mrun_plugin_v1 ] ||
    fail "$name: it must export mrun_plugin_v1 and nothing else"
  quiet outside "$mrun" check "$so"
  quiet outside meson install -C "$dir/build" --no-rebuild
  [ -f "$plugins/$(basename "$so")" ] || fail "$name: not installed into plugindir"

  ini=$(find "$dir" -maxdepth 1 -name '*.ini') run=$work/run-$name
  quiet outside "$mrun" "$ini" --set "run.dir=$run"
  [ -f "$run/log.jsonl" ] || fail "$name: mrun $(basename "$ini") wrote no log.jsonl"
  first=$(loss "$run/log.jsonl" 1p) last=$(loss "$run/log.jsonl" '$p')
  [ -n "$first" ] && [ -n "$last" ] || fail "$name: no losses in $run/log.jsonl"
  awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < a) }' ||
    fail "$name: the loss did not fall, $first to $last"
  printf 'ok   %-12s loss %s to %s\n' "$name" "$first" "$last"
}

# ---- libmrun: a program that knows mrun/mrun.h and pkg-config's words only -----------------------
embed() {
  local flags said
  cp "$source_dir/tests/outside/embed.c" "$work/embed.c"
  read -ra flags <<<"$(outside pkg-config --cflags --libs mrun-1)"
  quiet outside cc -std=c17 "${embed_flags[@]}" -o embed embed.c "${flags[@]}" -lm
  quiet outside env "LD_LIBRARY_PATH=$(outside pkg-config --variable=libdir mrun-1)" \
    "MRUN_PLUGIN_PATH=$plugins" ./embed "$1"
  said=$(tail -n 1 "$work/said")
  printf 'ok   %-12s %s\n' libmrun "$said"
}

mkdir "$work/examples"
[ $# -gt 0 ] || set -- $(cd "$source_dir/examples" && ls)
for name; do try "$name"; done
embed "$work/run-$1"
fsdp
printf '%d passed, 0 failed\n' $(($# + 2))
