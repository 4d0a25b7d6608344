// Parses the head of a boot pack. An accepted head must have the form that isr writes. Byte 0 is
// added to the length that the pack claims to have.
#include <cstdlib>

#include "base/error.h"
#include "image/boot_pack.h"

using namespace isr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView head(data + 1, size - 1);
  try {
    const std::size_t head_size = boot_head_size(head);
    if (head_size > kMaxBootHeadSize) std::abort();
    if (head.size() < head_size) return 0;
    const std::uint64_t pages = head[12] | head[13] << 8U;
    const BootHead parsed = parse_boot_head(head.first(head_size), head_size + pages * kBootPageSize + data[0]);
    const Bytes again = encode_boot_head(parsed);
    if (!std::equal(again.begin(), again.end(), head.begin(), head.begin() + static_cast<std::ptrdiff_t>(head_size))) {
      std::abort();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
  return 0;
}
