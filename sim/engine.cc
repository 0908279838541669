#include "engine.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/signals.h"

namespace buoy::sim {

namespace {
template <typename T>
T or_throw(Result<T> result, const char* what) {
  if (!result.ok())
    throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(result.code())));
  return *result;
}
void or_throw(Status status, const char* what) {
  if (!status.ok())
    throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(status.code())));
}
}  // namespace

Engine::Engine(const EngineOptions& options, Page pages)
    : context_(std::make_unique<Context>()),
      vm_(std::make_unique<Vm>(*context_, OnExhausted::kSigbus)),
      mmu_(std::make_unique<mmu::SoftMmu>(vm_.get(), &context_->counters)),
      contents_(options.stored),
      has_contents_(pages),
      may_be_lost_(pages) {
  mmu::Costs costs = mmu_->costs();
  costs.take_run_ns = options.take_ns;
  mmu_->set_costs(costs);
  context_->mmu = mmu_.get();
  context_->pins = mmu::Pins::kUnknown;  // as under `buoy run`
  context_->most_waits_for_others = 0;   // there are none
  context_->budget.set_limit(PageCount::whole_in(options.budget));
  or_throw(context_->table.create(), "the engine's page table");
  or_throw(vm_->create(), "the engine");
  context_->arena = arena_ =
      or_throw(frames::Arena::create(context_->budget, context_->counters, options.budget),
               "the engine's arena");
  swap::SwapOptions swap_options;
  swap_options.compressor = options.compressor;
  swap_options.backing_file = options.backing_file.c_str();
  auto stack = swap::SwapStack::create(swap_options, *arena_, context_->counters);
  if (!stack.ok()) {
    frames::Arena::destroy(arena_);
    or_throw(stack, "--backing-file");
  }
  context_->swap = swap_ = *stack;
  base_ = or_throw(vm_->map(PageCount(pages), RegionFlags::kNone, mmu::Access::kReadWrite),
                   "the simulated program's memory");
}

Engine::~Engine() {
  swap::SwapStack::destroy(swap_);
  frames::Arena::destroy(arena_);
}

// ---- Accesses -----------------------------------------------------------------------------------

bool Engine::access_slowly(Page page, bool is_store) {
  const std::uint64_t before = context_->counters.read(buoy::Event::pgmajfault);
  if (!is_store)
    load_and_check(page);
  else if (has_contents_[page] && !may_be_lost_[page])
    store_again(page);
  else
    store_contents(page);
  if (context_->budget.is_below_low()) {
    const SignalBlock signals;
    vm_->reclaimer().keep_ahead();
  }
  return context_->counters.read(buoy::Event::pgmajfault) != before;
}

void Engine::store_contents(Page page) {
  if (!contents_.are_uniform()) contents_.fill(page, bytes_);
  const auto touch = contents_.are_uniform()
                         ? mmu_->store_uniform(vpn(page), PageContents::stamp(page))
                         : mmu_->store(vpn(page).address(), bytes_.data(), bytes_.size());
  if (touch != mmu::SoftMmu::Touch::kDone) tell("store", page, touch);
  has_contents_[page] = true;
  may_be_lost_[page] = false;
}

// The same value again; a page of one word must stay one.
void Engine::store_again(Page page) {
  if (contents_.are_uniform()) return store_contents(page);
  const std::uint64_t word = PageContents::stamp(page);
  const auto touch = mmu_->store(vpn(page).address(), &word, sizeof word);
  if (touch != mmu::SoftMmu::Touch::kDone) tell("store", page, touch);
}

void Engine::load_and_check(Page page) {
  std::uint64_t word = 0;
  const auto touch = mmu_->load(vpn(page).address(), &word, sizeof word);
  if (touch != mmu::SoftMmu::Touch::kDone) tell("load", page, touch);
  const bool is_stored = word == PageContents::stamp(page);
  const bool may_be_zero = !has_contents_[page] || may_be_lost_[page];
  if (!(has_contents_[page] && is_stored) && !(may_be_zero && word == 0))
    throw std::runtime_error(fmt::format("page {} came back with other contents", page));
}

void Engine::tell(const char* what, Page page, mmu::SoftMmu::Touch touch) const {
  if (touch == mmu::SoftMmu::Touch::kBusError)
    throw std::runtime_error(
        fmt::format("{} to page {}: nothing can be reclaimed any more (budget {} KiB); give the "
                    "engine a backing file, or a larger budget",
                    what, page, context_->budget.limit().bytes() >> 10));
  throw std::runtime_error(fmt::format("{} to page {} cannot be served", what, page));
}

// ---- Advice -------------------------------------------------------------------------------------

void Engine::advise(const sim::Event& event) {
  const PageRun run{vpn(event.page()), PageCount(event.count())};
  Status status;
  switch (event.act()) {
    case Act::kDiscard:
      status = vm_->discard(run);
      for (Page p = event.page(); p < event.page() + event.count(); ++p)
        has_contents_[p] = may_be_lost_[p] = false;
      break;
    case Act::kFree:
      status = vm_->free_lazily(run);
      for (Page p = event.page(); p < event.page() + event.count(); ++p)
        may_be_lost_[p] = has_contents_[p];
      break;
    case Act::kCold:
      status = vm_->cold(run);
      break;
    case Act::kPageOut:
      status = vm_->page_out(run);
      break;
    case Act::kWillNeed:
      status = vm_->will_need(run);
      break;
    case Act::kLoad:
    case Act::kStore:
      break;
  }
  or_throw(status, "advice");
}

// ---- What it tells ------------------------------------------------------------------------------

EngineCounts Engine::counts() const {
  const auto read = [&](buoy::Event e) { return context_->counters.read(e); };
  return {read(buoy::Event::pgmajfault),      read(buoy::Event::pgfault_standby),
          read(buoy::Event::pgfault_protect), read(buoy::Event::pswpin),
          read(buoy::Event::pswpin_file),     read(buoy::Event::pswpout)};
}

TierSample Engine::tiers() const {
  TierSample sample;
  sample.mapped = context_->pages_in(PteState::kMapped) + context_->pages_in(PteState::kClean) +
                  context_->lazyfree_pages();
  sample.standby = context_->pages_in(PteState::kStandby);
  sample.pool_frames = arena_->taken().value();
  sample.compressed = swap_->stats().compressed_pages;
  const std::uint64_t swapped =
      context_->pages_in(PteState::kSwapped) + context_->pages_in(PteState::kClean);
  sample.in_file = swapped - std::min(swapped, sample.compressed);
  return sample;
}

Picture::Tier Engine::tier_of(Page page) const {
  const Leaf* leaf = context_->table.find_leaf(vpn(page));
  if (leaf == nullptr) return Picture::Tier::kNone;
  const Pte p = leaf->get(vpn(page).in_block());
  switch (p.state()) {
    case PteState::kMapped:
    case PteState::kClean:
    case PteState::kLazyFree:
    case PteState::kLazyAway:
      return Picture::Tier::kMapped;
    case PteState::kStandby:
      return Picture::Tier::kStandby;
    case PteState::kSwapped:
      return swap_->is_backed(p.entry()) ? Picture::Tier::kFile : Picture::Tier::kCompressed;
    default:
      return Picture::Tier::kNone;
  }
}

void Engine::validate() {
  vm_->validate(arena_->taken());
  swap_->validate();
  arena_->validate();
}

}  // namespace buoy::sim
