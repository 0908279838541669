#include "vm/vm_testing.h"

#include "base/check.h"
#include "base/signals.h"

namespace buoy {

SoftVm::SoftVm(const SoftVmOptions& options)
    : context_(std::make_unique<Context>()),
      vm_(std::make_unique<Vm>(*context_, options.on_exhausted)),
      mmu_(std::make_unique<mmu::SoftMmu>(vm_.get(), &context_->counters)) {
  mmu_->set_preferred_return(options.preferred_return);
  context_->mmu = mmu_.get();
  context_->pins = options.pins;
  context_->most_kept = options.most_kept;
  context_->most_waits_for_others = options.most_waits_for_others;
  context_->budget.set_limit(options.budget);
  BUOY_CHECK(context_->table.create().ok());
  BUOY_CHECK(vm_->create().ok());
  auto arena =
      frames::Arena::create(context_->budget, context_->counters, options.budget.bytes() * 4);
  BUOY_CHECK(arena.ok());
  context_->arena = arena_ = *arena;
  swap::SwapOptions swap_options;
  swap_options.compressor = options.compressor;
  auto stack = swap::SwapStack::create(swap_options, *arena_, context_->counters);
  BUOY_CHECK(stack.ok());
  context_->swap = swap_ = *stack;
}

SoftVm::~SoftVm() {
  swap::SwapStack::destroy(swap_);
  frames::Arena::destroy(arena_);
}

void SoftVm::set_hook(mmu::SoftMmu::Hook hook) {
  hook_ = std::move(hook);
  mmu_->set_hook(hook_);
}

// ---- The program ------------------------------------------------------------------------------

PageRun SoftVm::map(std::uint64_t pages, RegionFlags flags) {
  auto at = vm_->map(PageCount(pages), flags, mmu::Access::kReadWrite);
  BUOY_CHECK(at.ok());
  return {*at, PageCount(pages)};
}

SoftVm::Touch SoftVm::store(Vpn page, const PageImage& image) {
  const PageImage::Bytes bytes = image.bytes();
  return mmu_->store(page.address(), bytes.data(), bytes.size());
}

SoftVm::Touch SoftVm::store_part(Vpn page, unsigned part, std::uint32_t seed) {
  std::array<std::byte, PageImage::kPartBytes> bytes;
  PageImage::write_part(seed, bytes.data());
  return mmu_->store(page.address() + part * PageImage::kPartBytes, bytes.data(), bytes.size());
}

bool SoftVm::try_store_part(Vpn page, unsigned part, std::uint32_t seed) {
  std::array<std::byte, PageImage::kPartBytes> bytes;
  PageImage::write_part(seed, bytes.data());
  return mmu_->try_store(page.address() + part * PageImage::kPartBytes, bytes.data(), bytes.size());
}

SoftVm::Touch SoftVm::load(Vpn page, PageImage::Bytes* bytes) {
  return mmu_->load(page.address(), bytes->data(), bytes->size());
}

PageImage SoftVm::image_of(Vpn page) {
  return PageImage::filled(PageImage::seed_of(static_cast<std::uint32_t>(page.value()),
                                              PageImage::Texture::kCompressible));
}

void SoftVm::fill(PageRun run) {
  for (Vpn page = run.first; page < run.end(); ++page)
    BUOY_CHECK(store(page, image_of(page)) == Touch::kDone);
}

bool SoftVm::holds(Vpn page, const PageImage& image) {
  PageImage::Bytes bytes;
  return load(page, &bytes) == Touch::kDone && image.matches(bytes);
}

Pte SoftVm::pte(Vpn page) const {
  const Leaf* leaf = context_->table.find_leaf(page);
  return leaf == nullptr ? Pte::of(PteState::kEmpty) : leaf->get(page.in_block());
}

std::string SoftVm::drawn(PageRun run) const {
  constexpr std::string_view kLetters = "-.mlcszLPa";
  std::string picture;
  for (Vpn page = run.first; page < run.end(); ++page)
    picture += kLetters[static_cast<std::size_t>(pte(page).state())];
  return picture;
}

// ---- Reclaim ----------------------------------------------------------------------------------

PageCount SoftVm::reclaim(std::uint64_t goal) {
  const SignalBlock signals;
  const GatePass pass(context_->gate);
  return vm_->reclaimer().reclaim(PageCount(goal), ReclaimKind::kProactive);
}

void SoftVm::age_to_standby(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_->gate);
  for_each_locked_leaf(*context_, run, [](LockedLeaf& locked, LeafRange range) {
    (void)locked.take(range);
    return true;
  });
}

// ---- Fork -------------------------------------------------------------------------------------

void SoftVm::fork_and_stay() {
  BUOY_CHECK(vm_->before_fork().ok());
  // The child's pages go with it, but it leaves the parent's shared, as an exiting child does.
  (void)mmu_->fork_child(nullptr, nullptr);
  vm_->after_fork_in_parent();
}

void SoftVm::fork_and_become_child() {
  BUOY_CHECK(vm_->before_fork().ok());
  auto child = mmu_->fork_child(vm_.get(), &context_->counters);
  mmu_ = std::move(child);
  context_->mmu = mmu_.get();
  BUOY_CHECK(vm_->after_fork_in_child().ok());
  mmu_->set_hook(hook_);
}

void SoftVm::validate() {
  vm_->validate(arena_->taken());
  swap_->validate();
  arena_->validate();
  BUOY_CHECK(mmu_->populated_pages() + arena_->taken() == context_->budget.used());
  BUOY_CHECK(context_->budget.used() <= context_->budget.limit());
}

}  // namespace buoy
