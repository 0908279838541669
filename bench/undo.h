// Changes to the machine that are taken back whatever happens to this process.
//
// A guardian process is forked before the first change. It holds one end of a pipe and is told how
// to undo each change *before* the change is made; when the other end closes, because this process
// ended its work or died in any way, it undoes all of them, last one first. It has a session of its
// own, so that an interrupt at the terminal does not reach it.
//
//   buoy-bench ──"swapoff /dev/zram1"──> guardian: swapoff
//              ──"remove /sys/fs/..."──>           remove
//              ──(end of file)─────────>           undo, last first; exit
#pragma once

#include <string>

namespace buoy::bench {

enum class Undo {
  kSwapOff,     // argument: the device or file
  kWriteFile,   // argument: "PATH TEXT"
  kRemoveDir,   // argument: a folder, a cgroup: its processes are killed first
  kRemoveFile,  // argument: a file
};

// Tells the guardian, starting it at the first call; throws Unavailable. Undoing what was not done
// must be harmless.
void undo_at_end(Undo action, const std::string& argument);

// Undoes everything now, and waits for that. Called once at the end; a process that dies first is
// cleaned up after all the same.
void undo_all();

}  // namespace buoy::bench
