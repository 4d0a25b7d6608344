// Guest memory reaches its image in one of two ways. With a shared mapping the kernel writes it to the mount. With a
// private mapping this class copies the pages that QEMU has to itself.
//
// A checkpoint copies while the guest runs; once the guest is paused it copies only the pages that have changed since.
// The mount is told of pages that the guest gives back meanwhile, and a copy never overwrites them (LiveMemory). The
// mapping alone does not show which pages were given back: a page that QEMU does not have to itself may also be one of
// the version's.

#include "machine/machine_memory.h"

#include <random>

#include "base/log.h"
#include "machine/machine_files.h"

namespace isr {
namespace {

/// A resumed guest touches the pages that it needs to continue within seconds; the others are read in bulk later.
constexpr std::chrono::seconds kFirstTouches{10};
constexpr std::chrono::minutes kLongestFirstTouches{2};
constexpr std::size_t kMostRounds = 5;  // of copying, while the guest keeps changing memory
constexpr std::chrono::milliseconds kShortPause{10};
constexpr std::uint64_t kShortCopy = 4U << 20U;  // takes about kShortPause
constexpr std::size_t kSampledPages = 64;

std::uint64_t size_of(std::span<const MemoryRange> runs) {
  std::uint64_t size = 0;
  for (const MemoryRange& run : runs) size += run.size();
  return size;
}

}  // namespace

MachineMemory::MachineMemory(Session& session, fs::path file) : session_(session), file_(std::move(file)) {}

MountedFile MachineMemory::begin(bool fresh) {
  image_ = session_.memory().begin(fresh);
  live_ = session_.memory().live();
  const auto endurance = std::make_shared<Endurance>();
  *endurance_.lock() = endurance;
  return mounted_memory(image_, endurance);
}

void MachineMemory::attach(Vm& vm) { vm_ = &vm; }

void MachineMemory::guest_runs() { read_around_at_ = std::chrono::steady_clock::now() + kFirstTouches; }

void MachineMemory::end() {
  vm_ = nullptr;
  read_around_at_.reset();
  image_.reset();
  live_.reset();
  *endurance_.lock() = std::make_shared<Endurance>();
  session_.memory().abandon();
}

void MachineMemory::write_back_file() const {
  write_back(file_);
  if ((*endurance_.lock())->given_up) throw Error(ErrorKind::kVm, "the guest is being switched off");
}

void MachineMemory::copy_changed() {
  VmMemory& guest = vm_->memory();
  if (guest.mapping() == MemoryMapping::kShared) {
    write_back_file();
    return;
  }
  live_->end_copy();  // a paused guest gives nothing back, and QEMU has dropped the pages given back before
  copy(tracking_ ? guest.take_written() : guest.changed());
  const std::vector<MemoryRange> left_out = std::exchange(*left_out_.lock(), {});
  copy(left_out);
}

void MachineMemory::copy(std::span<const MemoryRange> runs) {
  vm_->memory().visit(runs, [this](std::uint64_t offset, ByteView bytes) {
    for (const Extent& part : live_->copy(offset, bytes)) left_out_.lock()->push_back({part.offset, part.end()});
  });
}

void MachineMemory::copy_ahead() {
  VmMemory& guest = vm_->memory();
  if (guest.mapping() == MemoryMapping::kShared) {
    for (std::size_t round = 0; round < kMostRounds; ++round) {
      const auto began = std::chrono::steady_clock::now();
      write_back_file();
      if (std::chrono::steady_clock::now() - began < kShortPause) return;
    }
    return;
  }
  live_->begin_copy();
  vm_->status({});  // the thread that answers also gives memory back, and has finished doing so
  auto written = guest.begin_tracking();
  if (!written) return;
  tracking_ = true;
  copy(*written);
  for (std::size_t round = 1; round < kMostRounds && size_of(*written) > kShortCopy; ++round) {
    written = guest.take_written();
    copy(*written);
  }
}

void MachineMemory::end_copy() noexcept {
  live_->end_copy();
  left_out_.lock()->clear();
  if (std::exchange(tracking_, false)) vm_->memory().end_tracking();
}

void MachineMemory::sample(MemoryWitness& witness) const {
  witness.seed = std::random_device()();
  witness.sample = vm_->memory().sample(kSampledPages, witness.seed);
}

void MachineMemory::read_around_if_due() {
  const auto now = std::chrono::steady_clock::now();
  if (!read_around_at_ || now < *read_around_at_) return;
  // While the pages of the working set still arrive one by one over a slow link, reading around would only delay them.
  if (session_.prefetch().is_fetching_working_set() && now < *read_around_at_ + kLongestFirstTouches) return;
  read_around_at_.reset();
  vm_->memory().read_around();
}

std::uint64_t MachineMemory::changed_bytes() const {
  try {
    return size_of(vm_->memory().changed());
  } catch (const Error& error) {
    log::warn("{}", error.what());  // the VM may just have ended
    return 0;
  }
}

std::uint64_t MachineMemory::given_back_bytes() const { return image_->counters().discarded_bytes.load(); }

std::string MachineMemory::hindrance() const { return (*endurance_.lock())->hindrance.lock()->why; }

void MachineMemory::give_up() { (*endurance_.lock())->given_up = true; }

}  // namespace isr
