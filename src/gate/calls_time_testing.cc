// Calls on clocks and timers.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "gate/calls_testing.h"

namespace buoy::gate::calls {
namespace {

void nothing(int) {}

NamedCall simple(long number, std::vector<Argument> arguments) {
  return {number, [=] { return Call{arguments}; }};
}

// Sleeping, interrupted after a moment: what is left is written only then.
void alarm_soon() {
  signal(SIGALRM, nothing);
  const itimerval soon{{0, 2000}, {0, 2000}};  // again and again: the first may come too early
  setitimer(ITIMER_REAL, &soon, nullptr);
}
Call sleep_some() { return {{copy_of(timespec{5, 0}), room(16)}, alarm_soon}; }
Call sleep_by_clock() {
  return {{CLOCK_MONOTONIC, 0, copy_of(timespec{5, 0}), room(16)}, alarm_soon};
}

int new_timer() {
  int id = -1;
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id);
  return id;
}
Call create_timer() {
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  return {{CLOCK_MONOTONIC, copy_of(event), room(4)}};
}
Call set_timer() { return {{new_timer(), 0, room(32), room(32)}}; }
Call get_timer() { return {{new_timer(), room(32)}}; }
Call set_timer_descriptor() {
  return {{timerfd_create(CLOCK_MONOTONIC, 0), 0, room(32), room(32)}};
}
Call get_timer_descriptor() { return {{timerfd_create(CLOCK_MONOTONIC, 0), room(32)}}; }

}  // namespace

// Setting a clock is refused to an ordinary user when the time has been read.
Calls time_calls() {
  return {
      {35, sleep_some},
      simple(36, {ITIMER_REAL, room(32)}),
      simple(38, {ITIMER_VIRTUAL, room(32), room(32)}),
      simple(96, {room(16), room(8)}),
      simple(100, {room(32)}),
      simple(159, {room(208)}),
      simple(164, {room(16), room(8)}),
      simple(201, {room(8)}),
      {222, create_timer},
      {223, set_timer},
      {224, get_timer},
      simple(227, {CLOCK_REALTIME, room(16)}),
      simple(228, {CLOCK_MONOTONIC, room(16)}),
      simple(229, {CLOCK_MONOTONIC, room(16)}),
      {230, sleep_by_clock},
      {286, set_timer_descriptor},
      {287, get_timer_descriptor},
      simple(305, {CLOCK_REALTIME, room(208)}),
  };
}

}  // namespace buoy::gate::calls
