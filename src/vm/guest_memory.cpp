// The library is a file inside our own binary; QEMU gets it as a memfd, by
// number, so that nothing has to be installed and nobody can put another in its
// place. What it does is written in guest_memory/guest_memory.c; whether it did
// is read from /proc/PID/maps.
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

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "vm/command_line.h"
#include "vm/stream_socket.h"

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
constexpr int kAdviceTimeoutMs = 5000;  // for a thread that has nothing else to do
constexpr unsigned kCopyThreads = 2;

UniqueFd library_file() {
  UniqueFd fd(::memfd_create(kLibraryName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) throw_errno(kLibraryName, errno);
  const auto size = static_cast<std::size_t>(isr_guest_memory_end - isr_guest_memory_begin);
  write_all_at(fd.get(), {isr_guest_memory_begin, size}, 0, kLibraryName);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
    throw_errno(kLibraryName, errno);
  return fd;
}

/// Addresses from offsets, and back.
std::vector<MemoryRange> moved_by(std::vector<MemoryRange> ranges, std::uint64_t distance) {
  for (MemoryRange& range : ranges) range = {range.begin + distance, range.end + distance};
  return ranges;
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
    // Of a program with rights that we lack: what nobody sees is nothing that could be saved.
    log::warn("how QEMU has mapped its memory cannot be seen: {}", error.what());
    mapping_ = MemoryMapping::kShared;
    readable_ = wanted_ == MemoryMapping::kShared;
  }
}

void GuestMemory::find_mapping() {
  struct stat info {};
  if (::stat(file_.c_str(), &info) != 0) throw_errno(file_.string(), errno);
  const auto areas = read_maps(pid_);
  std::array<std::uint64_t, 2> told{};  // address, length
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
    channel_.reset();  // nobody listens
  }
  mapping_ = MemoryMapping::kShared;
  if (wanted_ != mapping_) log::warn("QEMU has not mapped its memory privately; it runs with the shared file");
  const bool mapped = std::any_of(areas.begin(), areas.end(), [&](const MappedArea& area) {
    return area.shared && area.device == info.st_dev && area.inode == info.st_ino;
  });
  if (!mapped) throw Error(ErrorKind::kVm, "QEMU has not mapped its memory file");
}

bool GuestMemory::is_readable() const {
  if (mapping_ == MemoryMapping::kShared) return readable_;
  try {
    read_own_pages(pid_, {range_.begin, range_.begin + kPageSize});
    // Of its program, as guest memory would have to be fetched.
    const auto areas = read_maps(pid_);
    const auto first = std::find_if(areas.begin(), areas.end(), [](const MappedArea& area) { return area.readable; });
    if (first == areas.end()) return false;
    const MemoryRange byte{first->range.begin, first->range.begin + 1};
    Bytes out(1);
    read_process(pid_, {&byte, 1}, out);
    return true;
  } catch (const Error& error) {
    log::warn("QEMU's memory cannot be read by the process that started it: {}", error.what());
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

bool GuestMemory::begin_tracking() {
  if (mapping_ == MemoryMapping::kShared || !order('t')) return false;
  try {
    take_written_pages(pid_, range_);
    scan_own_pages(pid_, range_);
    tracking_ = true;
  } catch (const Error&) {
    end_tracking();
  }
  return tracking_;
}

void GuestMemory::end_tracking() {
  tracking_ = false;
  if (mapping_ != MemoryMapping::kShared) order('e');
}

std::vector<MemoryRange> GuestMemory::take_written() const {
  return moved_by(take_written_pages(pid_, range_), -range_.begin);
}

std::vector<MemoryRange> GuestMemory::changed() const {
  if (mapping_ == MemoryMapping::kShared) return {};
  return moved_by(tracking_ ? scan_own_pages(pid_, range_) : read_own_pages(pid_, range_), -range_.begin);
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
