# Helpers of CMakeLists.txt: what a layer is made of, and where an archive is.

# Reads `layer: allowed layers` lines into BUOY_LAYERS and BUOY_LAYER_DEPS_<layer>.
macro(buoy_read_layers table)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${table})
  file(STRINGS ${table} lines REGEX "^[a-z]+:")
  set(BUOY_LAYERS "")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "^([a-z]+):(.*)$" _ "${line}")
    set(layer ${CMAKE_MATCH_1})
    separate_arguments(BUOY_LAYER_DEPS_${layer} UNIX_COMMAND "${CMAKE_MATCH_2}")
    list(APPEND BUOY_LAYERS ${layer})
  endforeach()
endmacro()

# The sources of a folder that belong to the product.
function(buoy_glob_sources out dir)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${dir}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_(test|bench|fuzz|testing)\\.cc$")
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

# The object libraries of those of the given layers that have sources.
function(buoy_object_targets out)
  set(targets "")
  foreach(layer IN LISTS ARGN)
    if(TARGET buoy_${layer})
      list(APPEND targets buoy_${layer})
    endif()
  endforeach()
  set(${out} ${targets} PARENT_SCOPE)
endfunction()

function(buoy_find_archive var name)
  find_library(${var} NAMES lib${name}.a)
  if(NOT ${var})
    message(FATAL_ERROR "lib${name}.a not found; `./dev build` installs what is needed")
  endif()
endfunction()

# A copy of jemalloc's archive for the preload library: names that src/preload/jemalloc_names.txt
# lists are ours to define, or to call, and there are no C++ operators (src/preload has its own).
function(buoy_rename_jemalloc out)
  buoy_find_archive(JEMALLOC_PIC_ARCHIVE jemalloc_pic)
  set(archive ${CMAKE_BINARY_DIR}/libbuoy_jemalloc.a)
  set(names ${CMAKE_SOURCE_DIR}/src/preload/jemalloc_names.txt)
  add_custom_command(OUTPUT ${archive}
    COMMAND ${CMAKE_COMMAND} -E copy ${JEMALLOC_PIC_ARCHIVE} ${archive}
    COMMAND ${CMAKE_AR} d ${archive} jemalloc_cpp.pic.o
    COMMAND ${CMAKE_OBJCOPY} --redefine-syms=${names} ${archive}
    DEPENDS ${JEMALLOC_PIC_ARCHIVE} ${names} VERBATIM)
  add_custom_target(buoy_jemalloc DEPENDS ${archive})
  set(${out} ${archive} PARENT_SCOPE)
endfunction()

# Linking jemalloc replaces malloc, so only what includes its header gets it.
function(buoy_link_jemalloc_if_used target)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} hit REGEX "#include <jemalloc/jemalloc\\.h>")
    if(hit)
      buoy_find_archive(JEMALLOC_PIC_ARCHIVE jemalloc_pic)
      target_link_libraries(${target} PRIVATE ${JEMALLOC_PIC_ARCHIVE} m)
      return()
    endif()
  endforeach()
endfunction()

# Zydis is a shared library, and for tests only.
function(buoy_link_zydis_if_used target)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} hit REGEX "#include <Zydis/Zydis\\.h>")
    if(hit)
      find_library(ZYDIS_LIBRARY Zydis REQUIRED)
      target_link_libraries(${target} PRIVATE ${ZYDIS_LIBRARY})
      return()
    endif()
  endforeach()
endfunction()

# The helpers that tests of this layer and of those above it share (*_testing.cc), compiled once.
function(buoy_add_testing_helpers out layer)
  set(${out} "" PARENT_SCOPE)
  if(NOT BUOY_TESTS)
    return()
  endif()
  set(name buoy_${layer}_testing)
  if(NOT TARGET ${name})
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS src/${layer}/*_testing.cc)
    if(NOT sources)
      return()
    endif()
    add_library(${name} OBJECT ${sources})
    target_link_libraries(${name} PRIVATE buoy_common buoy_sanitize buoy_tool_libs buoy_test_libs)
  endif()
  set(${out} ${name} PARENT_SCOPE)
endfunction()

# Leaves the other targets out of what is built when nothing is named.
function(buoy_build_only)
  get_property(targets DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  list(REMOVE_ITEM targets ${ARGN})
  set_target_properties(${targets} PROPERTIES EXCLUDE_FROM_ALL ON)
endfunction()

# An executable over one layer and the layers it may use, and no others: a layer's tests build and
# run while the layers above it do not compile.
function(buoy_add_layer_executable target layer)
  set(layers ${BUOY_LAYER_DEPS_${layer}} ${layer})
  set(helpers "")
  foreach(each IN LISTS layers)
    buoy_add_testing_helpers(found ${each})
    list(APPEND helpers ${found})
  endforeach()
  buoy_object_targets(targets ${layers})
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE
    ${helpers} ${targets} buoy_common buoy_sanitize buoy_libs buoy_tool_libs ${CMAKE_DL_LIBS})
endfunction()
