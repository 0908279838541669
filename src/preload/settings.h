// Settings: what this process was told by `buoy run`, read from the environment it started with.
//
// Read from the initial stack, not through getenv: malloc is called before libc has set up
// `environ`, and the program may change its environment at any time. Allocates nothing.
#pragma once

#include "api/pool.h"

namespace buoy::preload {

// What cannot be given a budget, executed by a program that has one.
enum class UnmanagedExec : unsigned char { kRefuse, kAllow };

// Is the program told that its budget is all the memory there is?
enum class ShowBudget : unsigned char { kYes, kNo };

// Whose budget is it?
enum class BudgetScope : unsigned char { kProcess, kTree };

struct Settings {
  PoolOptions pool;
  const char* stats = nullptr;  // "-" or a path; null: none wanted
  const char* trace = nullptr;  // a path; null: none wanted
  int first_pid = 0;            // the process that `buoy run` started
  UnmanagedExec unmanaged_exec = UnmanagedExec::kRefuse;
  BudgetScope scope = BudgetScope::kProcess;
  ShowBudget show_budget = ShowBudget::kYes;
};

// EINVAL: the variables are missing or are not what `buoy run` writes; ENAMETOOLONG. `*what` then
// names the variable. Strings are copied: programs that set their title in ps write over the
// environment they were started with. Called once.
[[nodiscard]] Result<Settings> read_settings(const char** what);

// `path`, with `.PID` at the end unless this process is the first: no two share a file.
// ENAMETOOLONG.
[[nodiscard]] Status path_of_this_process(const char* path, int first_pid, char* out,
                                          std::size_t capacity);

// The value of a variable in the environment the process started with, or null.
[[nodiscard]] const char* initial_environment(const char* name);

}  // namespace buoy::preload
