# `cpack -G DEB` in the build folder: a package for each component of BuoyInstall.cmake that there is.
#
#   buoy         the command and its preload library     libbuoy0       the shared library
#   buoy-bench   benchmarks and simulator                libbuoy-dev    headers, archive, buoy(3)
#   python3-buoy the Python module
if(BUOY_SANITIZE OR NOT TARGET buoy OR NOT TARGET buoy_preload_lib OR NOT TARGET buoy-bench
   OR NOT TARGET man_pages)
  return()
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME buoy)
set(CPACK_PACKAGE_CONTACT "Buoy maintainers <maintainers@buoy.invalid>")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL command bench library development python)

# buoy_package(COMPONENT PACKAGE SECTION DEPENDS SUMMARY TEXT): what Debian wants to know of it, and the
# documents that every package has.
macro(buoy_package component package section depends summary text)
  string(TOUPPER ${component} key)
  set(CPACK_DEBIAN_${key}_PACKAGE_NAME ${package})
  set(CPACK_DEBIAN_${key}_PACKAGE_SECTION ${section})
  set(CPACK_DEBIAN_${key}_PACKAGE_DEPENDS "${depends}")
  set(CPACK_DEBIAN_${key}_DESCRIPTION "${summary}\n${text}")
  foreach(document ${CMAKE_SOURCE_DIR}/packaging/debian/copyright ${changelog})
    install(FILES ${document} DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package}
      COMPONENT ${component} EXCLUDE_FROM_ALL)
  endforeach()
  if(EXISTS ${CMAKE_SOURCE_DIR}/packaging/debian/${package}.lintian-overrides)
    install(FILES packaging/debian/${package}.lintian-overrides RENAME ${package}
      DESTINATION ${CMAKE_INSTALL_DATADIR}/lintian/overrides COMPONENT ${component} EXCLUDE_FROM_ALL)
  endif()
endmacro()

set(changelog ${CMAKE_BINARY_DIR}/changelog.gz)
add_custom_command(OUTPUT ${changelog}
  COMMAND gzip -9nc ${CMAKE_SOURCE_DIR}/packaging/debian/changelog > ${changelog}
  DEPENDS packaging/debian/changelog VERBATIM)
add_custom_target(changelog ALL DEPENDS ${changelog})
add_dependencies(products changelog)

set(what "Buoy keeps a program within a hard memory budget, with ordinary loads and\n\
stores on real pages: no privileges, no kernel module, no swap device.")
buoy_package(command buoy utils ""
  "run programs within a memory budget"
  "${what}\n\n\
This package has the command: 'buoy run --budget 256M -- PROGRAM' runs an\n\
unmodified program.")
buoy_package(bench buoy-bench utils "buoy (= ${PROJECT_VERSION})"
  "run programs within a memory budget - benchmarks"
  "${what}\n\n\
This package has the benchmarks, side by side with the kernel, and the\n\
simulator of the page replacement.")
buoy_package(library libbuoy0 libs ""
  "memory budgets within a process - shared library"
  "${what}\n\n\
This package has the library that programs are linked with.")
buoy_package(development libbuoy-dev libdevel "libbuoy0 (= ${PROJECT_VERSION})"
  "memory budgets within a process - development files"
  "${what}\n\n\
This package has the headers for C and C++, the archive, and what pkg-config\n\
and CMake need. What links the archive needs liblz4-dev, libzstd-dev and\n\
libsodium-dev.")
buoy_package(python python3-buoy python "python3:any, libbuoy0 (= ${PROJECT_VERSION})"
  "memory budgets within a process - Python module"
  "${what}\n\n\
This package has the module for Python: pools, regions as memoryviews, and\n\
buffers that may be purged.")

set(CPACK_DEBIAN_PYTHON_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_PYTHON_PACKAGE_SHLIBDEPS OFF)
file(WRITE ${CMAKE_BINARY_DIR}/shlibs
  "libbuoy ${PROJECT_VERSION_MAJOR} libbuoy${PROJECT_VERSION_MAJOR} (>= ${PROJECT_VERSION})\n")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA
  ${CMAKE_SOURCE_DIR}/packaging/debian/triggers ${CMAKE_BINARY_DIR}/shlibs)
include(CPack)
