# What `cmake --install` puts where, relative to the prefix, which may be moved afterwards: nothing that
# is installed has it inside. Components are the packages that cmake/BuoyPackage.cmake makes.
include(CMakePackageConfigHelpers)

set(BUOY_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/buoy)
set(BUOY_PYTHON_DIR lib/python3/dist-packages CACHE STRING "Where the Python module goes, below the prefix")
set(BUOY_ZSH_DIR ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions CACHE STRING
  "Where zsh looks for completions, below the prefix")

# ---------------------------------------------------------------- library, headers

if(TARGET buoy_lib_shared)
  set_target_properties(buoy_lib_shared buoy_lib_static PROPERTIES
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
  set_target_properties(buoy_lib_shared PROPERTIES EXPORT_NAME buoy)
  install(TARGETS buoy_lib_shared EXPORT buoyTargets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT development
    INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(TARGETS buoy_lib_static
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
  # `cmake --install --strip` leaves archives alone.
  install(CODE "
    if(CMAKE_INSTALL_DO_STRIP)
      execute_process(COMMAND ${CMAKE_STRIP} --strip-debug
        \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/libbuoy.a\"
        COMMAND_ERROR_IS_FATAL ANY)
    endif()" COMPONENT development)
  install(DIRECTORY include/buoy DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

  install(EXPORT buoyTargets NAMESPACE buoy:: DESTINATION ${BUOY_CMAKE_DIR} COMPONENT development)
  configure_package_config_file(cmake/buoyConfig.cmake.in ${CMAKE_BINARY_DIR}/buoyConfig.cmake
    INSTALL_DESTINATION ${BUOY_CMAKE_DIR} NO_SET_AND_CHECK_MACRO)
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/buoyConfigVersion.cmake
    COMPATIBILITY SameMajorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/buoyConfig.cmake ${CMAKE_BINARY_DIR}/buoyConfigVersion.cmake
    DESTINATION ${BUOY_CMAKE_DIR} COMPONENT development)

  # From the folder of buoy.pc to the prefix.
  file(RELATIVE_PATH BUOY_PC_TO_PREFIX
    ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
  string(REGEX REPLACE "/$" "" BUOY_PC_TO_PREFIX "${BUOY_PC_TO_PREFIX}")
  configure_file(cmake/buoy.pc.in ${CMAKE_BINARY_DIR}/buoy.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/buoy.pc
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
endif()

# ---------------------------------------------------------------- commands

# The preload library is no library to link with: it has a folder of its own, where `buoy` looks for it.
if(TARGET buoy_preload_lib)
  install(TARGETS buoy_preload_lib LIBRARY DESTINATION ${BUOY_PRELOAD_DIR} COMPONENT command)
endif()
if(TARGET buoy-serve)
  install(TARGETS buoy-serve RUNTIME DESTINATION ${BUOY_PRELOAD_DIR} COMPONENT command)
endif()
if(TARGET buoy)
  install(TARGETS buoy RUNTIME COMPONENT command)
  install(FILES completion/buoy.bash RENAME buoy
    DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT command)
  install(FILES completion/_buoy DESTINATION ${BUOY_ZSH_DIR} COMPONENT command)
  install(FILES completion/buoy.fish
    DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT command)
endif()
if(TARGET buoy-bench)
  install(TARGETS buoy-bench RUNTIME COMPONENT bench)
endif()
if(TARGET buoy-sim)
  install(TARGETS buoy-sim RUNTIME COMPONENT bench)
endif()
if(NOT BUOY_SANITIZE)
  install(DIRECTORY python/buoy DESTINATION ${BUOY_PYTHON_DIR} COMPONENT python
    FILES_MATCHING PATTERN "*.py" PATTERN __pycache__ EXCLUDE)
  install(FILES docs/install.md contrib/Dockerfile contrib/allow-userfaultfd.py contrib/service.conf
    contrib/kubernetes.yaml DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT command)
endif()

# ---------------------------------------------------------------- man pages

# buoy_man_page(NAME.SECTION COMPONENT DEPENDENCY...): docs/man/NAME.SECTION.md, with what the command's
# own help and the headers say in it, compressed as Debian wants it.
function(buoy_man_page page component)
  string(REGEX MATCH "[0-9]$" section ${page})
  set(out ${CMAKE_BINARY_DIR}/man/${page})
  set(tools "")
  foreach(tool buoy-bench buoy-sim)
    if(TARGET ${tool})
      list(APPEND tools --program ${tool}=$<TARGET_FILE:${tool}>)
    endif()
  endforeach()
  add_custom_command(OUTPUT ${out}.gz
    COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/scripts/make_man.py --version ${PROJECT_VERSION}
      --program buoy=$<TARGET_FILE:buoy> ${tools}
      ${CMAKE_SOURCE_DIR}/docs/man/${page}.md ${out}
    COMMAND gzip -9nf ${out}
    DEPENDS scripts/make_man.py docs/man/${page}.md ${ARGN} VERBATIM)
  set_property(GLOBAL APPEND PROPERTY BUOY_MAN_PAGES ${out}.gz)
  install(FILES ${out}.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section} COMPONENT ${component})
endfunction()

find_package(Python3 COMPONENTS Interpreter QUIET)
find_program(GZIP_PROGRAM gzip)
if(NOT Python3_FOUND OR NOT GZIP_PROGRAM)
  message(STATUS "no man pages: they are made by python3 and gzip")
elseif(TARGET buoy AND NOT BUOY_SANITIZE)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/man)
  buoy_man_page(buoy.1 command buoy)
  buoy_man_page(buoy-run.1 command buoy)
  if(TARGET buoy-bench)
    buoy_man_page(buoy-bench.1 bench buoy-bench)
  endif()
  if(TARGET buoy-sim)
    buoy_man_page(buoy-sim.1 bench buoy-sim)
  endif()
  buoy_man_page(buoy.3 development include/buoy/buoy.h)
  get_property(pages GLOBAL PROPERTY BUOY_MAN_PAGES)
  add_custom_target(man_pages ALL DEPENDS ${pages})
  add_dependencies(products man_pages)
endif()
