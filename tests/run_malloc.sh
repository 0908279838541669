#!/usr/bin/env bash
# malloc as programs know it: glibc's promises and numbers, and everything by which two mallocs could
# meet in one process.
# ctest: timeout=600
source "$(dirname "$0")/run_common.bash"
SOURCE=$(cd "$(dirname "$0")" && pwd)/programs

same_as_native 64M "" "$PROGRAMS/malloc_promises"
same_as_native 64M "" "$PROGRAMS/malloc_numbers"
same_as_native 24M "--backing-file auto" "$PROGRAMS/malloc_numbers"
same_as_native 64M "" "$PROGRAMS/libc_handle"
same_as_native 64M "" "$PROGRAMS/other_namespace"

# compiled NAME SOURCE [OPTION...]: false if it cannot be had here.
compiled() {
  local out=$WORK/$1 from=$2
  shift 2
  g++ -std=c++20 -O2 -D_GNU_SOURCE -fno-builtin -o "$out" "$from" "$@" 2>"$WORK/$$.log"
}

# A library that binds past what is preloaded.
if compiled plugin.so "$SOURCE/deep_bind.cc" -DPLUGIN -shared -fPIC; then
  same_as_native 32M "" "$PROGRAMS/deep_bind" "$WORK/plugin.so"
else
  skip "RTLD_DEEPBIND: no compiler"
fi

# A second allocator in the program: shared, static with its names exported or not, preloaded.
same_as_native 48M "" "$PROGRAMS/mixed_pairs"
with_allocator() {
  local name=$1
  shift
  if compiled "$name" "$SOURCE/mixed_pairs.cc" -pthread -Wl,--no-as-needed "$@"; then
    same_as_native 48M "" "$WORK/$name"
  else
    skip "mixed_pairs with $*"
  fi
}
archive=$(g++ -print-file-name=libjemalloc.a)
with_allocator with_jemalloc -ljemalloc
with_allocator with_tcmalloc -l:libtcmalloc_minimal.so.4
with_allocator with_static "$archive" -ldl
with_allocator with_static_exported -rdynamic "$archive" -ldl
for library in libjemalloc.so.2 libtcmalloc_minimal.so.4; do
  [[ $(g++ -print-file-name=$library) == /* ]] || { skip "preloaded $library"; continue; }
  export LD_PRELOAD=$library
  same_as_native 48M "" "$PROGRAMS/mixed_pairs"
  unset LD_PRELOAD
done

# Settings that are meant for another jemalloc.
for conf in background_thread:true percpu_arena:percpu,metadata_thp:always,thp:always \
  prof:true,no_such_option:1 retain:true,dirty_decay_ms:-1,narenas:1,tcache:false \
  junk:true,zero:true,stats_print:true abort_conf:true,no_such_option:1; do
  export MALLOC_CONF=$conf
  same_as_native 48M "" "$PROGRAMS/malloc_churn" 2 10000
  unset MALLOC_CONF
done

# Sanitizers: refused in one line, by `buoy run` or in what the program executes.
for kind in address thread; do
  for compiler in g++ clang++; do
    command -v $compiler >/dev/null && echo 'int main() { return 0; }' |
      $compiler -fsanitize=$kind -x c++ -o "$WORK/sanitized" - 2>/dev/null ||
      { skip "$compiler -fsanitize=$kind"; continue; }
    "$BUOY" run --budget 64M -- "$WORK/sanitized" >"$WORK/out" 2>&1
    [[ $? == 126 && $(wc -l <"$WORK/out") == 1 ]] && grep -q "^buoy: .*-fsanitize=$kind" "$WORK/out" ||
      fail "$compiler -fsanitize=$kind: $(head -n 2 "$WORK/out")"
    "$BUOY" run --budget 64M -- sh -c "exec $WORK/sanitized" >"$WORK/out" 2>&1
    [[ $? == 2 && $(wc -l <"$WORK/out") == 1 ]] && grep -q "^buoy: .*-fsanitize=$kind" "$WORK/out" ||
      fail "$compiler -fsanitize=$kind, executed: $(head -n 2 "$WORK/out")"
  done
done
if echo 'int main() { return 0; }' | g++ -fsanitize=undefined -x c++ -o "$WORK/undefined" - 2>/dev/null; then
  same_as_native 32M "" "$WORK/undefined"
fi

# A program whose modules are opened with RTLD_DEEPBIND.
if command -v php >/dev/null; then
  same_as_native 32M "" php -r '
    $a = []; for ($i = 0; $i < 100000; ++$i) $a[] = str_repeat("x", $i % 100) . $i;
    echo md5(implode(",", $a)), "\n";'
else
  skip "no php"
fi
finish
