// gate_mutexes [OPERATIONS] [SEED] [PAUSE]: threads that take locks of every kind while the pages in which the
// locks lie leave, all of them each PAUSE milliseconds. What the locks guard is counted, and each count must come
// out right. By default a few operations, and no pause; the acceptance run makes 10^8 with a pause of 100.
#include <semaphore.h>

#include <vector>

#include "gate_testing.h"

using namespace gate_testing;

namespace {

constexpr std::size_t kThreads = 8;
constexpr std::size_t kLocks = 4096;
constexpr std::size_t kHot = 8;  // that all threads want

enum class Kind : std::size_t { kPlain, kRecursive, kInheriting, kReadWrite, kSemaphore, kSpin };
constexpr std::size_t kKinds = 6;

// One in each page or two; what it guards lies at its end.
struct Guarded {
  pthread_mutex_t mutex;
  pthread_rwlock_t read_write;
  sem_t semaphore;
  pthread_spinlock_t spin;
  pthread_cond_t changed;
  std::size_t waiting;
  char rest[3000];
  std::size_t count;
};

Kind kind_of(std::size_t i) { return static_cast<Kind>(i % kKinds); }

void prepare(Guarded& g, Kind kind) {
  pthread_mutexattr_t attributes;
  CHECK(pthread_mutexattr_init(&attributes) == 0);
  if (kind == Kind::kRecursive)
    CHECK(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE) == 0);
  if (kind == Kind::kInheriting)
    CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
  CHECK(pthread_mutex_init(&g.mutex, &attributes) == 0);
  CHECK(pthread_rwlock_init(&g.read_write, nullptr) == 0);
  CHECK(sem_init(&g.semaphore, 0, 1) == 0);
  CHECK(pthread_spin_init(&g.spin, PTHREAD_PROCESS_PRIVATE) == 0);
  CHECK(pthread_cond_init(&g.changed, nullptr) == 0);
}

// Now and then its holder gives way, so that others come to wait in the kernel.
void count_one(Guarded& g, bool gives_way) {
  const std::size_t before = g.count;
  if (gives_way) sched_yield();
  g.count = before + 1;
}

void with_mutex(Guarded& g, Kind kind, bool gives_way) {
  EXPECT(pthread_mutex_lock(&g.mutex) == 0);
  if (kind == Kind::kRecursive) EXPECT(pthread_mutex_lock(&g.mutex) == 0);
  count_one(g, gives_way);
  // Whoever waits is told by the next; nobody waits for good.
  if (kind == Kind::kPlain && gives_way) {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1'000'000;
    if (until.tv_nsec >= 1'000'000'000) {
      until.tv_nsec -= 1'000'000'000;
      ++until.tv_sec;
    }
    ++g.waiting;
    const int r = pthread_cond_timedwait(&g.changed, &g.mutex, &until);
    EXPECT(r == 0 || r == ETIMEDOUT);
    --g.waiting;
  } else if (g.waiting != 0) {
    EXPECT(pthread_cond_signal(&g.changed) == 0);
  }
  if (kind == Kind::kRecursive) EXPECT(pthread_mutex_unlock(&g.mutex) == 0);
  EXPECT(pthread_mutex_unlock(&g.mutex) == 0);
}

void operate(Guarded& g, Kind kind, bool gives_way) {
  switch (kind) {
    case Kind::kPlain:
    case Kind::kRecursive:
    case Kind::kInheriting:
      with_mutex(g, kind, gives_way);
      break;
    case Kind::kReadWrite:
      EXPECT(pthread_rwlock_rdlock(&g.read_write) == 0);
      EXPECT(pthread_rwlock_unlock(&g.read_write) == 0);
      EXPECT(pthread_rwlock_wrlock(&g.read_write) == 0);
      count_one(g, gives_way);
      EXPECT(pthread_rwlock_unlock(&g.read_write) == 0);
      break;
    case Kind::kSemaphore:
      EXPECT(sem_wait(&g.semaphore) == 0);
      count_one(g, gives_way);
      EXPECT(sem_post(&g.semaphore) == 0);
      break;
    case Kind::kSpin:
      EXPECT(pthread_spin_lock(&g.spin) == 0);
      count_one(g, false);
      EXPECT(pthread_spin_unlock(&g.spin) == 0);
      break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t operations = argument(argc, argv, 1, 200000);
  const std::size_t seed = argument(argc, argv, 2, 1);
  const std::chrono::milliseconds pause(argument(argc, argv, 3, 0));
  char* const pages = map(kLocks * sizeof(Guarded));
  auto* const all = reinterpret_cast<Guarded*>(pages);
  for (std::size_t i = 0; i < kLocks; ++i) prepare(all[i], kind_of(i));
  const std::size_t each = operations / kThreads;
  {
    const Evictor evictor(pages, kLocks * sizeof(Guarded), pause);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < kThreads; ++t)
      threads.emplace_back([=] {
        Random random(seed * kThreads + t);
        for (std::size_t n = 0; n < each; ++n) {
          const std::size_t i = random.below(random.one_in(8) ? kHot : kLocks);
          operate(all[i], kind_of(i), random.one_in(64));
        }
      });
    for (std::thread& t : threads) t.join();
  }
  std::size_t counted = 0;
  for (std::size_t i = 0; i < kLocks; ++i) counted += all[i].count;
  EXPECT(counted == each * kThreads);
  return result("gate_mutexes");
}
