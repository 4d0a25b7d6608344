#include "image/open_segments.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::size_t kMostIdle = 32;
constexpr std::string_view kCopySuffix = ".copy";

}  // namespace

std::string OpenSegments::file_name(std::uint64_t index) { return fmt::format("{:016x}.journal", index); }

SegmentFile OpenSegments::get(std::uint64_t index) { return opened(index, O_RDWR); }

SegmentFile OpenSegments::create(std::uint64_t index) { return opened(index, O_RDWR | O_CREAT | O_TRUNC); }

SegmentFile OpenSegments::opened(std::uint64_t index, int flags) {
  auto files = files_.lock();
  if (const auto it = files->by_index.find(index); it != files->by_index.end()) {
    it->second.used = ++files->tick;
    return it->second.file;
  }
  close_idle(*files, kMostIdle - 1);
  const auto open = [&] { return std::make_shared<const UniqueFd>(directory_.open(file_name(index), flags)); };
  SegmentFile file;
  try {
    file = open();
  } catch (const Error&) {
    // Perhaps there are no more descriptors, so close idle ones and try again.
    if (close_idle(*files, 0) == 0) throw;
    file = open();
  }
  files->by_index[index] = {file, ++files->tick};
  return file;
}

SegmentFile OpenSegments::replace(std::uint64_t index, const std::function<void(int fd)>& fill) {
  const std::string name = file_name(index);
  const std::string copy = name + std::string(kCopySuffix);
  directory_.remove_if_exists(copy);  // together with pages that may be wrong
  const auto file = std::make_shared<const UniqueFd>(directory_.open(copy, O_RDWR | O_CREAT | O_EXCL));
  fill(file->get());
  sync_file(file->get(), directory_.path() / copy);
  directory_.rename(copy, name);
  {
    auto files = files_.lock();
    files->by_index[index] = {file, ++files->tick};
  }
  directory_.sync();
  return file;
}

bool OpenSegments::is_leftover(const fs::path& file) { return file.extension() == kCopySuffix; }

std::size_t OpenSegments::close_idle(Files& files, std::size_t most) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> idle;  // last use, index
  for (const auto& [index, entry] : files.by_index) {
    if (entry.file.use_count() == 1) idle.emplace_back(entry.used, index);
  }
  if (idle.size() <= most) return 0;
  const std::size_t closed = idle.size() - most;
  std::sort(idle.begin(), idle.end());
  for (std::size_t i = 0; i < closed; ++i) files.by_index.erase(idle[i].second);
  return closed;
}

void OpenSegments::remove(std::uint64_t index) {
  files_.lock()->by_index.erase(index);
  directory_.remove_if_exists(file_name(index));
}

}  // namespace isr
