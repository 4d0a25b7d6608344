// How guest memory comes to its image: by the kernel's writes to a shared mapping,
// or by our copying what QEMU has to itself of a private one.
//
// A checkpoint copies while the guest runs, and when it stands still only what has
// changed since. What the guest gives back meanwhile the mount is told, and the
// copies keep clear of it (LiveMemory): nothing follows from a page that QEMU has not to itself.

#include <fcntl.h>
#include <fmt/format.h>

#include <random>

#include "base/file.h"
#include "base/log.h"
#include "machine/machine.h"

namespace isr {
namespace {

constexpr std::chrono::minutes kLongestFirstTouches{2};
constexpr std::size_t kMostRounds = 5;  // while the guest changes memory again
constexpr std::chrono::milliseconds kShortPause{10};
constexpr std::uint64_t kShortCopy = 4U << 20U;  // takes about as long
constexpr std::size_t kSampledPages = 64;

/// Waits for the pages that the kernel still holds of a file that QEMU mapped shared: they reach us as writes.
void write_back(const fs::path& file) {
  const UniqueFd fd = open_file(file, O_RDWR);
  if (::fsync(fd.get()) != 0) throw_errno(fmt::format("cannot write back {}", file.string()), errno);
}

std::uint64_t size_of(std::span<const MemoryRange> runs) {
  std::uint64_t size = 0;
  for (const MemoryRange& run : runs) size += run.size();
  return size;
}

}  // namespace

void Machine::write_back_memory() {
  write_back(mount_directory_ / kMemoryFileName);
  if ((*endurance_.lock())->given_up) throw Error(ErrorKind::kVm, "the guest is being switched off");
}

void Machine::copy_changed_memory() {
  VmMemory& guest = vm_->memory();
  if (guest.mapping() == MemoryMapping::kShared) {
    write_back_memory();
    return;
  }
  live_->end_copy();  // nothing is given back now, and QEMU has dropped what was
  copy(tracking_ ? guest.take_written() : guest.changed());
  const std::vector<MemoryRange> left_out = std::exchange(*left_out_.lock(), {});
  copy(left_out);
}

void Machine::copy(std::span<const MemoryRange> runs) {
  vm_->memory().visit(runs, [this](std::uint64_t offset, ByteView bytes) {
    for (const Extent& part : live_->copy(offset, bytes)) left_out_.lock()->push_back({part.offset, part.end()});
  });
}

/// So that little is left to do when the guest stands still.
void Machine::copy_memory_ahead() {
  VmMemory& guest = vm_->memory();
  if (guest.mapping() == MemoryMapping::kShared) {
    for (std::size_t round = 0; round < kMostRounds; ++round) {
      const auto began = std::chrono::steady_clock::now();
      write_back_memory();
      if (std::chrono::steady_clock::now() - began < kShortPause) return;
    }
    return;
  }
  live_->begin_copy();
  vm_->status({});  // answered by the thread that gives memory back, after what it was doing
  auto written = guest.begin_tracking();
  if (!written) return;
  tracking_ = true;
  copy(*written);
  for (std::size_t round = 1; round < kMostRounds && size_of(*written) > kShortCopy; ++round) {
    written = guest.take_written();
    copy(*written);
  }
}

void Machine::end_copy() noexcept {
  live_->end_copy();
  left_out_.lock()->clear();
  if (std::exchange(tracking_, false)) vm_->memory().end_tracking();
}

void Machine::sample_memory(MemoryWitness& witness) const {
  witness.seed = std::random_device()();
  witness.sample = vm_->memory().sample(kSampledPages, witness.seed);
}

MachineMoment Machine::checkpoint(const std::function<void()>& freeze) {
  struct Copying {
    Machine& machine;
    ~Copying() { machine.end_copy(); }
  };
  MachineMoment moment;
  {
    const Copying copying{*this};
    copy_memory_ahead();
    for (const auto& disk : session_.images().disks()) write_back(mount_directory_ / (disk->name() + ".raw"));
    moment.stamp = vm_->stamp();
    if (awakening_) awakening_->pause();
    const auto began = std::chrono::steady_clock::now();
    try {
      vm_->stop();
      moment.device_state = vm_->save_device_state();
      copy_changed_memory();
      sample_memory(moment.memory);
      freeze();
    } catch (...) {
      go_on();
      throw;
    }
    cont();
    last_pause_ = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
    if (awakening_) awakening_->go_on();
  }
  moment.memory.own = vm_->memory().changed();  // while writes were tracked the kernel's answer would say too much
  return moment;
}

void Machine::read_around_if_due() {
  const auto now = std::chrono::steady_clock::now();
  if (!running() || !read_around_at_ || now < *read_around_at_) return;
  // While those pages still come one by one over a thin link, what lies around them would only hold them up.
  if (session_.prefetch().is_fetching_working_set() && now < *read_around_at_ + kLongestFirstTouches) return;
  read_around_at_.reset();
  vm_->memory().read_around();
}

std::uint64_t Machine::changed_bytes_in_qemu() const {
  try {
    return size_of(vm_->memory().changed());
  } catch (const Error& error) {
    log::warn("{}", error.what());  // it may just have ended
    return 0;
  }
}

}  // namespace isr
