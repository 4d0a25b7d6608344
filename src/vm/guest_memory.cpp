// The library is a file inside isr's own binary. QEMU gets it as a memfd, by number, so nothing has to be installed and
// no other file can take its place. guest_memory/guest_memory.c describes what it does. /proc/PID/maps shows whether it
// worked.
#include "vm/guest_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/stream_socket.h"
#include "base/thread_pool.h"
#include "vm/command_line.h"

asm(R"(
        .section .rodata
        .balign 16
        .global isr_guest_memory_begin
        .global isr_guest_memory_end
        .hidden isr_guest_memory_begin
        .hidden isr_guest_memory_end
isr_guest_memory_begin:
        .incbin "guest_memory.so"
isr_guest_memory_end:
        .text
)");
extern "C" {
extern const unsigned char isr_guest_memory_begin[];
extern const unsigned char isr_guest_memory_end[];
}

namespace isr {
namespace {

constexpr const char* kLibraryName = "isr-guest-memory";
constexpr int kAdviceTimeoutMs = 5000;  // generous: the answering thread has no other work
constexpr unsigned kCopyThreads = 2;
constexpr std::size_t kDrawsPerPage = 4;  // on average, at most
constexpr std::uint64_t kSampleWindow =
    2U << 20U;  // pages are drawn from windows of this size, because most memory of many guests is not present

UniqueFd library_file() {
  UniqueFd fd(::memfd_create(kLibraryName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) throw_errno(kLibraryName, errno);
  const auto size = static_cast<std::size_t>(isr_guest_memory_end - isr_guest_memory_begin);
  write_all_at(fd.get(), {isr_guest_memory_begin, size}, 0, kLibraryName);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
    throw_errno(kLibraryName, errno);
  return fd;
}

/// Adds `distance`, to convert offsets to addresses and back.
std::vector<MemoryRange> moved_by(std::vector<MemoryRange> ranges, std::uint64_t distance) {
  for (MemoryRange& range : ranges) range = {range.begin + distance, range.end + distance};
  return ranges;
}

/// From the first shared mapping of a file to the end of its adjacent ones; empty when there is none.
MemoryRange shared_range(const std::vector<MappedArea>& areas, std::uint64_t device, std::uint64_t inode) {
  MemoryRange range;
  for (const MappedArea& area : areas) {
    if (!area.shared || area.device != device || area.inode != inode) continue;
    if (range.size() == 0) range = area.range;
    if (area.range.begin == range.end) range.end = area.range.end;  // the kernel may have divided it
  }
  return range;
}

/// True when areas of that kind fill the range without a gap.
bool is_mapped_as(const std::vector<MappedArea>& areas, MemoryRange range, std::uint64_t device, std::uint64_t inode) {
  std::uint64_t at = range.begin;
  for (const MappedArea& area : areas) {
    if (area.range.end <= at || area.range.begin >= range.end) continue;
    if (area.range.begin > at || area.shared || area.device != device || area.inode != inode) return false;
    at = area.range.end;
  }
  return at >= range.end && range.size() > 0;
}

}  // namespace

std::string_view to_name(MemoryMapping mapping) { return mapping == MemoryMapping::kShared ? "shared" : "private"; }

GuestMemory::GuestMemory(fs::path file, MemoryMapping wanted, ChildOptions& launch)
    : file_(std::move(file)), wanted_(wanted) {
  if (wanted == MemoryMapping::kShared) return;
  auto [here, there] = make_socket_pair();
  channel_ = std::move(here);
  constexpr int kFirst = 3;
  const int number = kFirst + static_cast<int>(launch.descriptors.size());
  launch.descriptors.push_back(library_file());
  launch.descriptors.push_back(std::move(there));
  launch.environment.push_back(fmt::format("LD_PRELOAD=/proc/self/fd/{}", number));
  launch.environment.push_back(fmt::format("ISR_GUEST_MEMORY={}", file_.string()));
  launch.environment.push_back(
      fmt::format("ISR_GUEST_MEMORY_AS={}", wanted_ == MemoryMapping::kZeros ? "zeros" : "private"));
  launch.environment.push_back(fmt::format("ISR_GUEST_MEMORY_CHANNEL={}", number + 1));
  launch.refuse_huge_pages = wanted_ != MemoryMapping::kZeros;
}

void GuestMemory::find(pid_t pid) {
  pid_ = pid;
  try {
    find_mapping();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo) throw;
    // The kernel hides the pages of a program that has rights which we lack, and hidden pages cannot be saved.
    log::warn("cannot find out how QEMU has mapped its memory: {}", error.what());
    mapping_ = MemoryMapping::kShared;
    seen_ = false;
  }
}

void GuestMemory::find_mapping() {
  struct stat info {};
  if (::stat(file_.c_str(), &info) != 0) throw_errno(file_.string(), errno);
  const auto areas = read_maps(pid_);
  std::array<std::uint64_t, 2> told{};  // the message: address, length
  if (::recv(channel_.get(), told.data(), sizeof told, MSG_DONTWAIT) == sizeof told) {
    range_ = {told[0], told[0] + told[1]};
    if (is_mapped_as(areas, range_, info.st_dev, info.st_ino)) {
      mapping_ = MemoryMapping::kPrivate;
      return;
    }
    if (is_mapped_as(areas, range_, 0, 0)) {
      mapping_ = MemoryMapping::kZeros;
      return;
    }
  } else {
    channel_.reset();  // the other side does not listen
  }
  mapping_ = MemoryMapping::kShared;
  if (wanted_ != mapping_) log::warn("QEMU has not mapped its memory privately; it runs with the shared file");
  range_ = shared_range(areas, info.st_dev, info.st_ino);
  if (range_.size() == 0) throw Error(ErrorKind::kVm, "QEMU has not mapped its memory file");
}

bool GuestMemory::is_readable() const {
  if (mapping_ == MemoryMapping::kShared) return seen_ || wanted_ == MemoryMapping::kShared;
  try {
    read_own_pages(pid_, {range_.begin, range_.begin + kPageSize});
    // Reads a byte of its program, because guest memory might have to be fetched.
    const auto areas = read_maps(pid_);
    const auto first = std::find_if(areas.begin(), areas.end(), [](const MappedArea& area) { return area.readable; });
    if (first == areas.end()) return false;
    const MemoryRange byte{first->range.begin, first->range.begin + 1};
    Bytes out(1);
    read_process(pid_, {&byte, 1}, out);
    return true;
  } catch (const Error& error) {
    log::warn("isr cannot read the memory of the QEMU that it started: {}", error.what());
    return false;
  }
}

bool GuestMemory::order(char what) {
  char result = -1;
  pollfd answer{channel_.get(), POLLIN, 0};
  return channel_ && ::send(channel_.get(), &what, 1, MSG_NOSIGNAL) == 1 && ::poll(&answer, 1, kAdviceTimeoutMs) == 1 &&
         ::recv(channel_.get(), &result, 1, MSG_DONTWAIT) == 1 && result == 0;
}

bool GuestMemory::read_around() { return order('n'); }

std::optional<std::vector<MemoryRange>> GuestMemory::begin_tracking() {
  if (mapping_ == MemoryMapping::kShared || !order('t')) return std::nullopt;
  try {
    return take_written();
  } catch (const Error&) {
    end_tracking();
    return std::nullopt;
  }
}

void GuestMemory::end_tracking() {
  if (mapping_ != MemoryMapping::kShared) order('e');
}

std::vector<MemoryRange> GuestMemory::take_written() const {
  return moved_by(take_own_written_pages(pid_, range_), -range_.begin);
}

std::vector<MemoryRange> GuestMemory::changed() const {
  if (mapping_ == MemoryMapping::kShared) return {};
  return moved_by(read_own_pages(pid_, range_), -range_.begin);
}

std::vector<SampledPage> GuestMemory::sample(std::size_t most, std::uint64_t seed) const {
  std::vector<SampledPage> pages;
  if (!seen_) return pages;
  std::mt19937_64 random(seed);
  const std::uint64_t windows = (range_.size() + kSampleWindow - 1) / kSampleWindow;
  try {
    for (std::size_t draw = 0; draw < kDrawsPerPage * most && pages.size() < most && windows > 0; ++draw) {
      const std::uint64_t begin = range_.begin + random() % windows * kSampleWindow;
      const auto present = present_pages(pid_, {begin, std::min(begin + kSampleWindow, range_.end)});
      if (present.empty()) continue;
      const MemoryRange page = present[random() % present.size()];
      SampledPage sampled{page.begin - range_.begin, Bytes(kPageSize)};
      read_process(pid_, {&page, 1}, sampled.bytes);
      pages.push_back(std::move(sampled));
    }
  } catch (const Error&) {
    if (mapping_ != MemoryMapping::kShared) throw;  // a shared mapping can be kept without reading it
  }
  return pages;
}

void GuestMemory::visit_changed(const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const {
  this->visit(changed(), visit);
}

void GuestMemory::visit(std::span<const MemoryRange> runs,
                        const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const {
  const auto batches = batches_of(runs, kCopiedAtOnce);
  parallel_for(batches.size(), kCopyThreads, [&](std::size_t i) {
    thread_local Bytes buffer(kCopiedAtOnce);
    read_process(pid_, moved_by(batches[i], range_.begin), buffer);
    ByteView rest = buffer;
    for (const MemoryRange& run : batches[i]) {
      visit(run.begin, rest.first(run.size()));
      rest = rest.subspan(run.size());
    }
  });
}

}  // namespace isr
