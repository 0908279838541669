#!/usr/bin/env bash
# What `cmake --install` and `cpack` make: it is found from outside of the tree, works from wherever it is
# moved to, exports the API and no more, and says of itself what the commands say.
# ctest: timeout=240
source "$(dirname "$0")/run_common.bash"
SOURCE_DIR=${SOURCE_DIR:-$(cd "$(dirname "$0")/.." && pwd)}

# ---------------------------------------------------------------- installed, stripped, and moved

DESTDIR=$WORK/stage cmake --install "$BUILD_DIR" --prefix /opt/first --strip >"$WORK/log" 2>&1 || {
  fail "cmake --install: $(tail -n 3 "$WORK/log")"
  finish
}
mkdir "$WORK/some"
mv "$WORK/stage/opt/first" "$WORK/some/where"
PREFIX=$WORK/some/where
installed=$(cd "$PREFIX" && find . -name 'libbuoy.so.0' -printf '%h\n')
LIBDIR=$PREFIX/${installed#./}
export PKG_CONFIG_PATH=$LIBDIR/pkgconfig
version=$(pkg-config --modversion buoy)
[[ $("$PREFIX/bin/buoy" --version) == "buoy $version" ]] || fail "buoy.pc is of version '$version'"

for file in include/buoy/buoy.h include/buoy/pool.hpp bin/buoy bin/buoy-bench bin/buoy-sim \
  share/bash-completion/completions/buoy; do
  [[ -s $PREFIX/$file ]] || fail "$file is not installed"
done
for file in libbuoy.so libbuoy.so.0 libbuoy.a buoy/libbuoy_preload.so cmake/buoy/buoyConfigVersion.cmake; do
  [[ -s $LIBDIR/$file ]] || fail "$file is not installed"
done
! grep -rlI -e "$BUILD_DIR" -e "$SOURCE_DIR" -e /opt/first -e "$WORK/stage" "$PREFIX" >"$WORK/out" ||
  fail "paths of the build in $(cat "$WORK/out")"

# The moved command finds the moved library, and what it runs is in a budget.
timeout 20 "$PREFIX/bin/buoy" run --budget 64M --stats "$WORK/stats" -- cat /proc/self/maps >"$WORK/maps" ||
  fail "buoy run from a moved prefix"
grep -q " $LIBDIR/buoy/libbuoy_preload.so$" "$WORK/maps" || fail "another preload library than the installed one"
[[ $(stat_of "$WORK/stats" budget_bytes) == $((64 << 20)) ]] || fail "no budget from a moved prefix"
timeout 20 "$PREFIX/bin/buoy" run --budget 64M -- true || fail "buoy run -- true from a moved prefix"
ln -s "$PREFIX/bin/buoy" "$WORK/link"
timeout 20 "$WORK/link" run --budget 64M -- true || fail "buoy run by a link to it"
# ... and that of the build folder the one beside it.
timeout 20 "$BUOY" run --budget 64M -- cat /proc/self/maps | grep -q " $(realpath "$BUILD_DIR")/libbuoy_preload.so$" ||
  fail "buoy of the build folder takes another preload library"
mkdir "$WORK/alone" && cp "$PREFIX/bin/buoy" "$WORK/alone/"
timeout 20 "$WORK/alone/buoy" run --budget 64M -- true 2>"$WORK/err"
[[ $? == 2 && $(wc -l <"$WORK/err") == 1 ]] && grep -q "^buoy: .*neither beside.*install Buoy as a whole" "$WORK/err" ||
  fail "a command without its library: $(cat "$WORK/err")"
timeout 20 "$PREFIX/bin/buoy-bench" --list | grep -q '^gate ' || fail "the installed buoy-bench"

# ---------------------------------------------------------------- what the library exports

# The functions of the headers, under the version BUOY_0, and libc's names that it stands before.
sed -n 's/^BUOY_API .*\b\(buoy_[a-z_]*\)(.*/\1@@BUOY_0/p' "$PREFIX/include/buoy/"*.h >"$WORK/wanted"
[[ $(wc -l <"$WORK/wanted") -ge 30 && $(grep -c '^BUOY_API ' "$PREFIX/include/buoy/buoy.h") == $(wc -l <"$WORK/wanted") ]] ||
  fail "not every function of the headers was found: $(wc -l <"$WORK/wanted")"
printf '%s\n' __sysv_signal bsd_signal sigaction signal sysv_signal >>"$WORK/wanted"
nm -D --defined-only "$LIBDIR/libbuoy.so.0" | awk '$2 != "A" { print $3 }' >"$WORK/exported"
diff <(sort "$WORK/wanted") <(sort "$WORK/exported") >"$WORK/out" || fail "headers (<) and exports (>): $(cat "$WORK/out")"
readelf -d "$LIBDIR/libbuoy.so" | grep -q 'SONAME.*\[libbuoy.so.0\]' || fail "the soname"

# ---------------------------------------------------------------- a program outside of the tree

mkdir "$WORK/outside"
cat >"$WORK/outside/main.c" <<'C'
#include <buoy/buoy.h>
#include <stdio.h>

/* Twice the budget, each page with its number, and what is by signal stays so: sigaction is ours. */
int main(void) {
  const size_t budget = 16 << 20, length = 2 * budget, page = 4096;
  struct buoy_options options = {.struct_size = sizeof options, .budget = budget};
  buoy_pool* pool;
  if (buoy_pool_create(&options, &pool) != 0) return perror("buoy_pool_create"), 1;
  char* memory = buoy_map(pool, length, 0);
  if (memory == NULL) return perror("buoy_map"), 1;
  for (size_t at = 0; at < length; at += page) *(size_t*)(memory + at) = at + 1;
  for (size_t at = 0; at < length; at += page)
    if (*(size_t*)(memory + at) != at + 1) return printf("wrong at %zu\n", at), 1;
  if (buoy_unmap(memory, length) != 0 || buoy_pool_destroy(pool) != 0) return perror("the end"), 1;
  return puts("all right"), 0;
}
C
cat >"$WORK/outside/main.cc" <<'CC'
#include <buoy/pool.hpp>
#include <buoy/purgeable.hpp>
#include <cstdio>
int main() {
  buoy::Pool pool(16 << 20);
  buoy::Region region(pool, 1 << 20);
  std::puts("all right");
}
CC
cat >"$WORK/outside/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(outside C CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(buoy 0.1 REQUIRED CONFIG)
add_executable(shared main.c)
target_link_libraries(shared buoy::buoy)
add_executable(archive main.c)
target_link_libraries(archive buoy::buoy_static)
add_executable(cxx main.cc)
target_link_libraries(cxx buoy::buoy)
CMAKE

# says_all_right NAME COMMAND...
says_all_right() {
  local name=$1 got
  shift
  got=$(timeout -k 5 60 "$@" 2>&1)
  [[ $got == "all right" ]] || fail "$name: $got"
  echo "ok: $name"
}
# shellcheck disable=SC2046
if gcc "$WORK/outside/main.c" $(pkg-config --cflags --libs buoy) -o "$WORK/outside/by_pc" 2>"$WORK/err"; then
  says_all_right "found by pkg-config" env LD_LIBRARY_PATH="$LIBDIR" "$WORK/outside/by_pc"
  readelf -d "$WORK/outside/by_pc" | grep -q 'NEEDED.*libbuoy.so.0' || fail "linked with another name than the soname"
  says_all_right "and under buoy run" env LD_LIBRARY_PATH="$LIBDIR" "$PREFIX/bin/buoy" run --budget 64M -- \
    "$WORK/outside/by_pc"
else
  fail "pkg-config: $(cat "$WORK/err")"
fi
# shellcheck disable=SC2046
if gcc "$WORK/outside/main.c" $(pkg-config --cflags buoy) -Wl,-Bstatic -L"$LIBDIR" -lbuoy -Wl,-Bdynamic \
  $(pkg-config --libs --static buoy | sed 's/.*-lbuoy//') -o "$WORK/outside/by_pc_static" 2>"$WORK/err"; then
  says_all_right "the archive, by pkg-config" "$WORK/outside/by_pc_static"
else
  fail "pkg-config --static: $(cat "$WORK/err")"
fi
if cmake -S "$WORK/outside" -B "$WORK/outside/build" -DCMAKE_PREFIX_PATH="$PREFIX" >"$WORK/log" 2>&1 &&
  cmake --build "$WORK/outside/build" >>"$WORK/log" 2>&1; then
  for program in shared archive cxx; do
    says_all_right "found by find_package: $program" "$WORK/outside/build/$program"
  done
else
  fail "find_package: $(tail -n 5 "$WORK/log")"
fi
sed -i 's/find_package(buoy 0.1/find_package(buoy 7.0/' "$WORK/outside/CMakeLists.txt"
! cmake -S "$WORK/outside" -B "$WORK/outside/other" -DCMAKE_PREFIX_PATH="$PREFIX" >/dev/null 2>&1 ||
  fail "find_package takes version $version for 7.0"

python=$(type -P /usr/bin/python3 python3 | head -n 1)
if [[ -n $python ]]; then
  module=$(dirname "$(find "$PREFIX" -path '*/buoy/__init__.py')")
  got=$(env -u BUOY_LIBRARY PYTHONPATH="$(dirname "$module")" "$python" -B -c '
import buoy
with buoy.Pool(16 << 20) as pool:
    pool.map(4096).view[0] = 1
print(next(line.split()[-1] for line in open("/proc/self/maps") if "libbuoy" in line))' 2>&1)
  [[ $got == "$LIBDIR/libbuoy.so.0"* ]] || fail "the installed Python module: $got"
  echo "ok: the installed Python module"
else
  skip "no python3: the installed Python module"
fi

# ---------------------------------------------------------------- man pages

# A page as roff, or a text, without its marks and breaks: words alone.
words_of_page() { sed -E 's/\\f.//g; s/\\([-&])/\1/g; s/\\e/\\/g; s/^\.(TP|PP|RS|RE|nf|fi|S[HS]).*//; s/&//g' | tr -s '\n ' ' '; }
words_of_help() { sed -E 's/^Usage: //; s/^ +//; s/ +/ /g; s/`//g' | grep -v '^$'; }
if [[ -e $PREFIX/share/man/man1/buoy-run.1.gz ]]; then
  # Every line of the help is in the page, whichever option or word it is about.
  for page in "buoy-run:run" "buoy:" "buoy-bench:" "buoy-sim:"; do
    command=${page%%:*}
    zcat "$PREFIX/share/man/man1/$command.1.gz" | words_of_page >"$WORK/page"
    # shellcheck disable=SC2086
    "$PREFIX/bin/${command/%-run/}" ${page#*:} --help | words_of_help >"$WORK/help"
    [[ $(wc -l <"$WORK/help") -ge 5 ]] || fail "no help to compare with $command(1)"
    while IFS= read -r line; do
      grep -qF -- "$line" "$WORK/page" || fail "$command(1) lacks what the help says: $line"
    done <"$WORK/help"
  done
  zcat "$PREFIX/share/man/man3/buoy.3.gz" | words_of_page >"$WORK/page"
  while IFS= read -r name; do
    grep -q "\b$name(" "$WORK/page" || fail "buoy(3) lacks $name"
  done < <(sed -n 's/@@.*//p' "$WORK/wanted")
  if type -P man >/dev/null; then
    for page in "$PREFIX"/share/man/man?/*.gz; do
      LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>"$WORK/err" >/dev/null
      [[ ! -s $WORK/err ]] || fail "$(basename "$page"): $(head -n 2 "$WORK/err")"
    done
  else
    skip "no man: the pages are not set"
  fi
else
  skip "no man pages were made here: no python3 or no gzip"
fi

# ---------------------------------------------------------------- completion

# completes "WORDS SO FAR" WANTED...: these, and nothing of UNWANTED, are offered for the last word.
completes() {
  local line=$1 offered
  shift
  offered=$(PATH="$PREFIX/bin:$PATH" bash --norc -c '
    source "$1"
    read -ra COMP_WORDS <<<"$2"
    [[ $2 != *" " ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
    _buoy
    printf "%s\n" "${COMPREPLY[@]}"' _ "$PREFIX/share/bash-completion/completions/buoy" "$line")
  [[ $(sort -u <<<"$offered") == "$(printf '%s\n' "$@" | sort -u)" ]] || fail "completion of '$line': $offered"
}
completes "buoy ru" run
completes "buoy in" info
completes "buoy --v" --version
# shellcheck disable=SC2046
completes "buoy run --" $("$PREFIX/bin/buoy" run --help | grep -oE '^  --[a-z-]+')
completes "buoy run --budget 64M --compresso" --compressor
completes "buoy run --compressor z" zstd
completes "buoy run --compressor " lz4 zstd none
completes "buoy run --compressor = l" lz4
completes "buoy run --stats $PREFIX/inc" "$PREFIX/include"
completes "buoy run --budget 64M -- nosuchprogramstartsso" ""
completes "buoy run --budget 64M -- --comp" ""
for shell in zsh fish; do
  type -P $shell >/dev/null || { skip "no $shell: its completion"; continue; }
  case $shell in
    zsh) timeout 20 zsh -n "$PREFIX/share/zsh/vendor-completions/_buoy" 2>"$WORK/err" || fail "zsh: $(cat "$WORK/err")" ;;
    fish)
      got=$(PATH="$PREFIX/bin:$PATH" HOME=$WORK timeout 20 fish --no-config -c \
        "source $PREFIX/share/fish/vendor_completions.d/buoy.fish; complete -C 'buoy run --compressor z'")
      [[ $got == zstd ]] || fail "fish completes '--compressor z' by '$got'"
      got=$(PATH="$PREFIX/bin:$PATH" HOME=$WORK timeout 20 fish --no-config -c \
        "source $PREFIX/share/fish/vendor_completions.d/buoy.fish; complete -C 'buoy run --budget 1G --st'")
      [[ $got == --stats* ]] || fail "fish completes '--st' by '$got'"
      ;;
  esac
done

# ---------------------------------------------------------------- the Debian packages

if ! type -P cpack dpkg-shlibdeps file >/dev/null; then
  skip "no cpack, dpkg-shlibdeps or file: no packages are made"
elif [[ ! -e $BUILD_DIR/CPackConfig.cmake ]]; then
  skip "this build has no man pages, so no packages"
elif (cd "$BUILD_DIR" && timeout 120 cpack -G DEB -B "$WORK/deb") >"$WORK/log" 2>&1; then
  for package in buoy buoy-bench libbuoy0 libbuoy-dev python3-buoy; do
    found=("$WORK/deb/${package}_${version}"_*.deb)
    [[ -e ${found[0]} ]] || fail "no package $package"
    dpkg-deb --fsys-tarfile "${found[0]}" | tar -x -C "$(mkdir -p "$WORK/root" && echo "$WORK/root")"
  done
  timeout 20 "$WORK/root/usr/bin/buoy" run --budget 64M -- true || fail "buoy of the package"
  ! find "$WORK/root" -type f -exec file {} + | grep 'ELF.*not stripped' || fail "something is not stripped"
  if type -P lintian >/dev/null; then
    timeout 120 lintian --allow-root --fail-on error,warning "$WORK/deb"/*.deb >"$WORK/out" 2>&1 ||
      fail "lintian: $(cat "$WORK/out")"
    echo "ok: lintian accepts the packages"
  else
    skip "no lintian: the packages are made, but NOT looked at"
  fi
else
  fail "cpack: $(tail -n 3 "$WORK/log")"
fi
finish
