#include "cli/report_padding.h"

#include <fmt/format.h>

namespace isr {

void report_padding(CommandContext& context, const VersionImage& disk) {
  constexpr std::uint64_t kSector = 512;
  if (disk.original_size == 0) return;
  const std::string padding = fmt::format(
      "{} has {} bytes; {} zeros make it {}, a multiple of {}, as QEMU needs; isr export gives {} bytes back",
      disk.name, disk.original_size, disk.content.size() - disk.original_size, disk.content.size(), kDiskSizeUnit,
      disk.original_size);
  if (disk.original_size % kSector == 0) {
    context.out.note(padding);
  } else {
    context.out.warn(padding + "; its length is not a multiple of 512: the file may be cut off");
  }
}

}  // namespace isr
