// buoy::movable_ops: memory of a driver's own that Buoy may move, so that it does not pin down the
// arena. The C API (buoy_movable_*) with owners; its comments in buoy.h are the contract.
// Header-only.
//
// A failed call throws std::system_error with the errno of the C API. The callbacks are noexcept
// function pointers: they run inside the engine, with the page locked.
#ifndef BUOY_MOVABLE_HPP
#define BUOY_MOVABLE_HPP

#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>
#include <utility>

#include "buoy/buoy.h"
#include "buoy/pool.hpp"

namespace buoy {
inline namespace v1 {

enum class migrate_mode : int { async = BUOY_MIGRATE_ASYNC, sync = BUOY_MIGRATE_SYNC };
enum class migrate_result : int {
  done = BUOY_MIGRATE_DONE,
  again = BUOY_MIGRATE_AGAIN,
  failed = BUOY_MIGRATE_FAILED
};
// For whom the callbacks may run: BUOY_MOVABLE_ANY_THREAD.
enum class movable_callers { users, anybody };

// How an owner's pages are moved. `data` is what movable_owner::set_movable was given.
struct movable_ops {
  // True: the page may be moved now, and is kept so until it was, or is put back.
  bool (*isolate)(void* context, void* page, void* data, migrate_mode mode) noexcept = nullptr;
  // Copies, and makes the owner's data name the new page.
  migrate_result (*migrate)(void* context, void* to, void* from, void* data,
                            migrate_mode mode) noexcept = nullptr;
  void (*put_back)(void* context, void* page, void* data) noexcept = nullptr;
  void* context = nullptr;
  movable_callers callers = movable_callers::users;
};

// An owner of movable pages. It stays where it is (the engine knows its address), outlives its
// pages, and its pool outlives it.
class movable_owner {
 public:
  // EINVAL, and what() names it, if a function is missing.
  movable_owner(const Pool& pool, const movable_ops& ops) : ops_(ops) {
    const char* const missing = ops.isolate == nullptr    ? "isolate"
                                : ops.migrate == nullptr  ? "migrate"
                                : ops.put_back == nullptr ? "put_back"
                                                          : nullptr;
    if (missing != nullptr)
      throw std::system_error(EINVAL, std::generic_category(),
                              std::string("buoy::movable_ops: no function ") + missing);
    buoy_movable_ops c{};
    c.struct_size = sizeof c;
    c.flags = ops.callers == movable_callers::anybody ? unsigned{BUOY_MOVABLE_ANY_THREAD} : 0U;
    c.context = this;
    c.isolate = [](void* self, void* page, void* data, int mode) {
      const movable_ops& o = static_cast<movable_owner*>(self)->ops_;
      return o.isolate(o.context, page, data, static_cast<migrate_mode>(mode)) ? 1 : 0;
    };
    c.migrate = [](void* self, void* to, void* from, void* data, int mode) {
      const movable_ops& o = static_cast<movable_owner*>(self)->ops_;
      return static_cast<int>(
          o.migrate(o.context, to, from, data, static_cast<migrate_mode>(mode)));
    };
    c.put_back = [](void* self, void* page, void* data) {
      const movable_ops& o = static_cast<movable_owner*>(self)->ops_;
      o.put_back(o.context, page, data);
    };
    detail::check(buoy_movable_owner_create(pool.get(), &c, &owner_), "buoy_movable_owner_create");
  }
  // Its pages must be gone.
  ~movable_owner() { (void)buoy_movable_owner_destroy(owner_); }
  movable_owner(const movable_owner&) = delete;
  movable_owner& operator=(const movable_owner&) = delete;

  // A naturally aligned run, at most 2 MiB, contents undefined, not movable yet.
  [[nodiscard]] void* allocate(std::size_t bytes) {
    void* const page = buoy_movable_alloc(owner_, bytes);
    if (page == nullptr) detail::throw_errno("buoy_movable_alloc");
    return page;
  }
  void set_movable(void* page, void* data) {
    detail::check(buoy_movable_set(owner_, page, data), "buoy_movable_set");
  }
  // False: it is not there (any more): it moved just before.
  [[nodiscard]] bool try_clear_movable(void* page) noexcept {
    return buoy_movable_clear(owner_, page) == 0;
  }
  [[nodiscard]] bool try_free(void* page) noexcept { return buoy_movable_free(owner_, page) == 0; }

 private:
  movable_ops ops_;
  buoy_movable_owner* owner_ = nullptr;
};

}  // namespace v1
}  // namespace buoy

#endif  // BUOY_MOVABLE_HPP
