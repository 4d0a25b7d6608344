// /sys has a directory for each block device. Its links in "slaves" lead to the devices below it.
#include "vm/swap.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace isr {
namespace {

constexpr std::size_t kMaxText = 1U << 20U;
constexpr int kMaxDepth = 8;

std::string text_of(const fs::path& path) {
  const auto bytes = read_file_if_exists(path, kMaxText);
  return bytes ? std::string(as_text(*bytes)) : std::string();
}

bool is_encrypted(const fs::path& device, int depth) {
  if (text_of(device / "dm" / "uuid").starts_with("CRYPT-")) return true;
  std::error_code absent;
  const fs::directory_iterator parts(device / "slaves", absent);
  if (absent || depth == 0 || begin(parts) == end(parts)) return false;
  return std::all_of(begin(parts), end(parts), [&](const fs::directory_entry& part) {
    return is_encrypted(fs::canonical(part.path()), depth - 1);
  });
}

bool is_safe(const fs::path& area, const fs::path& sys);

/// zram stays in memory, unless a disk below it may take pages that are idle or do not compress.
bool is_safe_zram(const fs::path& area, const fs::path& sys) {
  std::string backing =
      text_of(sys / "block" / area.filename() / "backing_dev");  // empty when the kernel does not support it
  if (backing.ends_with('\n')) backing.pop_back();
  return backing.empty() || backing == "none" || is_safe(backing, sys);
}

/// Judges the block device that is a swap area, or that holds the swap file.
bool is_safe(const fs::path& area, const fs::path& sys) {
  if (area.string().starts_with("/dev/zram")) return is_safe_zram(area, sys);
  struct stat info {};
  if (::stat(area.c_str(), &info) != 0) return false;
  const dev_t device = S_ISBLK(info.st_mode) ? info.st_rdev : info.st_dev;
  std::error_code unknown;
  const fs::path directory =
      fs::canonical(sys / "dev" / "block" / fmt::format("{}:{}", major(device), minor(device)), unknown);
  return !unknown && is_encrypted(directory, kMaxDepth);
}

/// "\040" for a space, as the kernel writes it.
std::string unescaped(std::string_view word) {
  constexpr std::size_t kDigits = 3;
  std::string out;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (word[i] == '\\' && word.size() - i > kDigits) {
      int value = 0;
      for (std::size_t digit = 1; digit <= kDigits; ++digit) value = value * 8 + (word[i + digit] - '0');
      out += static_cast<char>(value);
      i += kDigits;
    } else {
      out += word[i];
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> plaintext_swap(const fs::path& swaps, const fs::path& sys) {
  std::istringstream text(text_of(swaps));  // empty: a kernel without swap
  std::vector<std::string> found;
  std::string line;
  std::getline(text, line);  // the heading
  while (std::getline(text, line)) {
    const std::string area = unescaped(line.substr(0, line.find_first_of(" \t")));
    if (!is_safe(area, sys)) found.push_back(area);
  }
  return found;
}

}  // namespace isr
