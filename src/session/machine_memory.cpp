// How guest memory comes to its image: by the kernel's writes to a shared mapping,
// or by our copying what QEMU has to itself of a private one.
//
// A checkpoint copies while the guest runs, and when it stands still only what has
// changed since. What was copied and is no longer QEMU's own then was given back by
// the guest meanwhile: the mount knows it as zeros, but the copy may have come later.

#include <fcntl.h>
#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "session/machine.h"

namespace isr {
namespace {

constexpr std::chrono::minutes kLongestFirstTouches{2};
constexpr std::size_t kMostRounds = 5;  // while the guest changes memory again
constexpr std::chrono::milliseconds kShortPause{10};
constexpr std::uint64_t kShortCopy = 4U << 20U;  // takes about as long

/// What the kernel still holds of a file that QEMU mapped shared reaches us as writes.
void write_back(const fs::path& file) {
  const UniqueFd fd = open_file(file, O_RDWR);
  if (::fsync(fd.get()) != 0) throw_errno(fmt::format("cannot write back {}", file.string()), errno);
}

std::uint64_t size_of(std::span<const MemoryRange> runs) {
  std::uint64_t size = 0;
  for (const MemoryRange& run : runs) size += run.size();
  return size;
}

/// Pages of zeros are not stored as bytes.
void write_pages(Image& image, std::uint64_t offset, ByteView bytes) {
  while (!bytes.empty()) {
    const bool zero = is_zero(bytes.first(kPageSize));
    std::size_t length = kPageSize;
    while (length < bytes.size() && is_zero(bytes.subspan(length, kPageSize)) == zero) length += kPageSize;
    if (zero) {
      image.discard(offset, length);
    } else {
      image.write(offset, bytes.first(length));
    }
    offset += length;
    bytes = bytes.subspan(length);
  }
}

}  // namespace

void Machine::copy_changed_memory() {
  GuestMemory& guest = vm_->memory();
  if (guest.mapping() == MemoryMapping::kShared) {
    write_back(mount_directory_ / kMemoryFileName);
    return;
  }
  if (copied_ahead_.empty()) {
    copy(guest.changed());
  } else {
    copy_again();
  }
}

/// What was written since it was copied, in this order: a page that changes hands between the two scans is found
/// by the second, or by the next round.
void Machine::copy_again() {
  const auto written = vm_->memory().take_written();
  const auto changed = vm_->memory().changed();
  discard_given_back(changed);
  copied_ahead_.push_back(common_ranges(written, changed));
  copy(copied_ahead_.back());
}

void Machine::discard_given_back(std::span<const MemoryRange> changed) {
  for (const auto& copied : copied_ahead_) {
    for (const MemoryRange& gone : ranges_without(copied, changed)) memory_->discard(gone.begin, gone.size());
  }
}

void Machine::copy(std::span<const MemoryRange> runs) {
  vm_->memory().visit(runs, [this](std::uint64_t offset, ByteView bytes) { write_pages(*memory_, offset, bytes); });
}

/// So that little is left to do when the guest stands still.
void Machine::copy_memory_ahead() {
  GuestMemory& guest = vm_->memory();
  if (guest.mapping() != MemoryMapping::kShared) {
    if (!guest.begin_tracking()) return;
    copied_ahead_.push_back(guest.changed());
    copy(copied_ahead_.back());
    while (copied_ahead_.size() < kMostRounds && size_of(copied_ahead_.back()) > kShortCopy) copy_again();
    return;
  }
  for (std::size_t round = 0; round < kMostRounds; ++round) {
    const auto began = std::chrono::steady_clock::now();
    write_back(mount_directory_ / kMemoryFileName);
    if (std::chrono::steady_clock::now() - began < kShortPause) return;
  }
}

MachineMoment Machine::checkpoint(const std::function<void()>& freeze) {
  struct Tracking {
    Machine& machine;
    ~Tracking() {
      machine.vm_->memory().end_tracking();
      machine.copied_ahead_.clear();
    }
  } tracking{*this};
  copy_memory_ahead();
  for (const auto& disk : session_.disks()) write_back(mount_directory_ / (disk->name() + ".raw"));
  MachineMoment moment;
  moment.stamp = vm_->stamp();
  if (awakening_) awakening_->pause();
  const auto began = std::chrono::steady_clock::now();
  try {
    vm_->stop();
    moment.device_state = vm_->save_device_state();
    copy_changed_memory();
    freeze();
  } catch (...) {
    try {
      if (!copied_ahead_.empty()) discard_given_back(vm_->memory().changed());
    } catch (const std::exception& error) {
      log::warn("{}: {}", name_, error.what());  // it may just have ended
    }
    go_on();
    throw;
  }
  cont();
  last_pause_ = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
  if (awakening_) awakening_->go_on();
  return moment;
}

void Machine::read_around_if_due() {
  const auto now = std::chrono::steady_clock::now();
  if (!running() || !read_around_at_ || now < *read_around_at_) return;
  // While those pages still come one by one over a thin link, what lies around them would only hold them up.
  if (session_.is_fetching_working_set() && now < *read_around_at_ + kLongestFirstTouches) return;
  read_around_at_.reset();
  vm_->memory().read_around();
}

std::uint64_t Machine::changed_bytes_in_qemu() const {
  try {
    return size_of(vm_->memory().changed());
  } catch (const Error& error) {
    log::warn("{}: {}", name_, error.what());  // it may just have ended
    return 0;
  }
}

}  // namespace isr
