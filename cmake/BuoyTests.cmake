# Tests. Each executable or script is one ctest test; nothing is run at build time.
#
# A test says what it needs in a line of its own, `// ctest: ...` (in a script `# ctest: ...`):
#   labels=a,b    no_sanitizer: not under any; soft: whole under ThreadSanitizer; others are free
#   timeout=N     seconds (default 300; a sanitizer gets three times as much)
#   serial        nothing else runs beside it (it measures time, or needs the memory)
#   shards=N      N ctest tests, each with its part of the cases (only where they take long)
# Exit status 77 of a script means skipped.
#
# Under ThreadSanitizer the layers of BUOY_TSAN_LAYERS and tests labelled soft run whole, all other
# executables run their test cases named *Soft* if they have any. Scripts run under no sanitizer: there
# is no preload library. What no test of a preset runs is not built there.

find_package(GTest REQUIRED)
find_package(rapidcheck REQUIRED)
# Not pagetable: its sequence locks read plain data that a writer may be changing, and check afterwards.
set(BUOY_TSAN_LAYERS base frames zpool swap reclaim)

add_library(buoy_test_libs INTERFACE)
target_link_libraries(buoy_test_libs INTERFACE GTest::gtest_main GTest::gmock rapidcheck Threads::Threads)
target_include_directories(buoy_test_libs INTERFACE tests)

# Sanitizers need their shadow's addresses, which a high vm.mmap_rnd_bits may give away.
set(launcher "")
if(BUOY_SANITIZE)
  execute_process(COMMAND setarch -R true RESULT_VARIABLE no_setarch OUTPUT_QUIET ERROR_QUIET)
  if(NOT no_setarch)
    set(launcher setarch -R)
  endif()
endif()

set(test_environment
  "BUILD_DIR=${CMAKE_BINARY_DIR}" "SOURCE_DIR=${CMAKE_SOURCE_DIR}"
  "ASAN_OPTIONS=handle_sigbus=0:allow_user_segv_handler=1:detect_stack_use_after_return=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=second_deadlock_stack=1:halt_on_error=1:handle_sigbus=0")

# The `ctest:` lines of the given files: labels_out, timeout_out, serial_out, shards_out, in the
# caller's scope.
function(buoy_read_directives)
  set(labels "")
  set(timeout 0)
  set(serial OFF)
  set(shards 1)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} lines REGEX "^(//|#) ctest: ")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^(//|#) ctest: *" "" line "${line}")
      separate_arguments(words UNIX_COMMAND "${line}")
      foreach(word IN LISTS words)
        if(word MATCHES "^labels=(.+)$")
          string(REPLACE "," ";" more "${CMAKE_MATCH_1}")
          list(APPEND labels ${more})
        elseif(word MATCHES "^timeout=([0-9]+)$")
          if(CMAKE_MATCH_1 GREATER timeout)
            set(timeout ${CMAKE_MATCH_1})
          endif()
        elseif(word STREQUAL "serial")
          set(serial ON)
        elseif(word MATCHES "^shards=([0-9]+)$")
          set(shards ${CMAKE_MATCH_1})
        else()
          message(FATAL_ERROR "${source}: unknown word '${word}' in its ctest: line")
        endif()
      endforeach()
    endforeach()
  endforeach()
  if(timeout EQUAL 0)
    set(timeout 300)
  endif()
  if(BUOY_SANITIZE)
    math(EXPR timeout "${timeout} * 3")
  endif()
  list(REMOVE_DUPLICATES labels)
  set(labels_out "${labels}" PARENT_SCOPE)
  set(timeout_out ${timeout} PARENT_SCOPE)
  set(serial_out ${serial} PARENT_SCOPE)
  set(shards_out ${shards} PARENT_SCOPE)
endfunction()

function(buoy_set_test_properties name)
  set_tests_properties(${name} PROPERTIES
    LABELS "${labels_out}" TIMEOUT ${timeout_out} RUN_SERIAL ${serial_out}
    ENVIRONMENT "${test_environment};${ARGN}" SKIP_RETURN_CODE 77)
endfunction()

# soft_tests_out: whether a test of the given files has "Soft" in its name. (A filter that matches
# nothing would pass.)
function(buoy_find_soft_tests)
  set(soft_tests_out OFF PARENT_SCOPE)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} lines REGEX "^[A-Z_]*(TEST|TEST_F|TEST_P|TEST_SUITE_P)\\(.*Soft")
    if(lines)
      set(soft_tests_out ON PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# Registers an executable; `group` is its layer, or `system`.
function(buoy_add_gtest name group)
  target_link_libraries(${name} PRIVATE buoy_test_libs buoy_test_body)
  buoy_link_jemalloc_if_used(${name} ${ARGN})
  buoy_link_zydis_if_used(${name} ${ARGN})
  buoy_read_directives(${ARGN})
  list(APPEND labels_out ${group})
  if(BUOY_SANITIZE AND "no_sanitizer" IN_LIST labels_out)
    message(STATUS "${name}: not run under sanitizers; its first lines say why")
    return()
  endif()
  set(filter "")
  if(BUOY_SANITIZE STREQUAL "thread")
    if(NOT group IN_LIST BUOY_TSAN_LAYERS AND NOT "soft" IN_LIST labels_out)
      buoy_find_soft_tests(${ARGN})
      if(NOT soft_tests_out)
        message(STATUS "${name}: not run under ThreadSanitizer; it needs real faults")
        return()
      endif()
      set(filter --gtest_filter=*Soft*)
    endif()
    list(APPEND labels_out soft)
  endif()
  set_property(GLOBAL APPEND PROPERTY BUOY_RUN_TARGETS ${name})
  if(shards_out EQUAL 1)
    add_test(NAME ${name} COMMAND ${launcher} $<TARGET_FILE:${name}> ${filter})
    buoy_set_test_properties(${name})
    return()
  endif()
  foreach(shard RANGE 1 ${shards_out})
    math(EXPR index "${shard} - 1")
    add_test(NAME ${name}_${shard} COMMAND ${launcher} $<TARGET_FILE:${name}> ${filter})
    buoy_set_test_properties(${name}_${shard}
      GTEST_TOTAL_SHARDS=${shards_out} GTEST_SHARD_INDEX=${index})
  endforeach()
endfunction()

foreach(layer IN LISTS BUOY_LAYERS)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS src/${layer}/*_test.cc)
  if(sources)
    buoy_add_layer_executable(${layer}_test ${layer} ${sources})
    buoy_add_gtest(${layer}_test ${layer} ${sources})
  endif()
endforeach()

# Whole-system tests link the engine's objects, not the shared library, so that they see hidden names.
# Helpers shared by them: tests/*_testing.cc.
file(GLOB sources CONFIGURE_DEPENDS tests/*_test.cc)
file(GLOB helpers CONFIGURE_DEPENDS tests/*_testing.cc)
buoy_object_targets(targets ${engine_layers})
add_library(buoy_system_testing OBJECT ${helpers})
target_link_libraries(buoy_system_testing PRIVATE
  buoy_common buoy_sanitize buoy_tool_libs buoy_test_libs)
foreach(source IN LISTS sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE
    buoy_system_testing ${targets} buoy_common buoy_sanitize buoy_libs buoy_tool_libs ${CMAKE_DL_LIBS})
  buoy_add_gtest(${name} system ${source})
endforeach()

# The simulator's policies, traces and patterns.
if(TARGET buoy_sim)
  file(GLOB sources CONFIGURE_DEPENDS sim/*_test.cc)
  buoy_object_targets(targets ${engine_layers} control cli)
  add_executable(sim_test ${sources})
  target_link_libraries(sim_test PRIVATE buoy_sim
    ${targets} buoy_common buoy_sanitize buoy_libs buoy_tool_libs ${CMAKE_DL_LIBS})
  buoy_add_gtest(sim_test system ${sources})
endif()

# Programs that system tests run under `buoy run`: plain ones, never sanitized.
file(GLOB sources CONFIGURE_DEPENDS tests/programs/*.c tests/programs/*.cc)
foreach(source IN LISTS sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(program_${name} ${source})
  set_target_properties(program_${name} PROPERTIES
    OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests/programs")
  target_include_directories(program_${name} PRIVATE include)
  target_compile_definitions(program_${name} PRIVATE _GNU_SOURCE)
  target_link_libraries(program_${name} PRIVATE buoy_warnings Threads::Threads ${CMAKE_DL_LIBS})
endforeach()

get_property(BUOY_RUN_TARGETS GLOBAL PROPERTY BUOY_RUN_TARGETS)
if(NOT BUOY_SANITIZE)
  file(GLOB scripts CONFIGURE_DEPENDS tests/*.sh)
  foreach(script IN LISTS scripts)
    get_filename_component(name ${script} NAME_WE)
    buoy_read_directives(${script})
    list(APPEND labels_out system script)
    add_test(NAME ${name} COMMAND bash ${script})
    buoy_set_test_properties(${name})
  endforeach()
endif()
