// Computes where the data of an image file must end, for each format. A file cut before that place must be found to be
// incomplete.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "transfer/image_end.h"

namespace {

using namespace isr;

std::optional<std::uint64_t> needed(int fd, const fs::path& file, const char* format) {
  try {
    return needed_length(fd, file, format);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    return std::nullopt;
  }
}

/// True for a VMDK whose last sectors say where its tables are; a cut one may end with data that looks like them.
bool has_footer(ByteView image) {
  return image.size() > 64 && std::all_of(image.begin() + 56, image.begin() + 64, [](auto b) { return b == 0xff; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TempDirectory temp("isr-image-end-fuzz");
  static const fs::path file = temp.path() / "image";
  const ByteView image(data, size);
  for (const char* format : {"qcow2", "vmdk", "vdi", "vhdx"}) {
    const auto fd = open_file(file, O_RDWR | O_CREAT | O_TRUNC);
    write_all_at(fd.get(), image, 0, file);
    const auto whole = needed(fd.get(), file, format);
    if (!whole || has_footer(image)) continue;
    for (const std::uint64_t cut : {*whole - 1, *whole / 2, *whole / 3 + 7}) {
      if (cut >= *whole || cut > size) continue;
      if (::ftruncate(fd.get(), static_cast<off_t>(cut)) != 0) std::abort();
      const auto after = needed(fd.get(), file, format);
      if (after && *after <= cut) std::abort();
    }
  }
  return 0;
}
