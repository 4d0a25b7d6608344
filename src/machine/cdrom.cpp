#include "machine/cdrom.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/limits.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"
#include "base/whole_file.h"

namespace isr {
namespace {

fs::path note_of(const HostState& host, const ParcelEntry& parcel) {
  return host.state_directory / "cdrom" / parcel.id;
}

}  // namespace

fs::path check_cdrom(const fs::path& image) {
  const UniqueFd fd(::open(image.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    throw Error(ErrorKind::kUsage, fmt::format("the CD image {}: {}", image.string(), ::strerrordesc_np(errno)));
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) throw_errno(image.string(), errno);
  if (!S_ISREG(info.st_mode) || info.st_size == 0) {
    throw Error(ErrorKind::kUsage, fmt::format("the CD image {} is empty or not a regular file", image.string()));
  }
  return fs::absolute(image).lexically_normal();
}

void insert_cdrom(const HostState& host, const ParcelEntry& parcel, const fs::path& image) {
  const fs::path path = check_cdrom(image);
  const fs::path note = note_of(host, parcel);
  make_private_directory(note.parent_path());
  replace_file(note, as_bytes(path.string()));
}

void eject_cdrom(const HostState& host, const ParcelEntry& parcel) { remove_if_exists(note_of(host, parcel)); }

std::optional<fs::path> inserted_cdrom(const HostState& host, const ParcelEntry& parcel) {
  const auto path = read_file_if_exists(note_of(host, parcel), PATH_MAX);
  if (!path) return std::nullopt;
  return fs::path(std::string(as_text(*path)));
}

}  // namespace isr
