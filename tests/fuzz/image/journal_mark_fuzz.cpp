// A journal's mark: only bytes that were sealed for the segment say anything. Byte 0: 0 = the input as it is; 1 = a
// good mark with the input laid over it by exclusive or, from the byte that byte 1 says.
#include <cstdlib>

#include "base/error.h"
#include "image/journal_mark.h"

using namespace isr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Key device_key = hkdf_sha256(as_bytes("device"), {}, "fuzz");
  static const auto segment = JournalSegment::make("/nowhere", {1, 1, 1}, device_key);
  static const Bytes good = [] {
    const TempDirectory temp;
    if (!write_mark(temp.path(), device_key, *segment, 7)) std::abort();
    return read_file(temp.path() / "synced", 1000);
  }();
  if (size < 2) return 0;
  Bytes mark(data + 2, data + size);
  if (data[0] % 2 == 1) {
    mark = good;
    for (std::size_t i = 2; i < size && data[1] + i - 2 < mark.size(); ++i) mark[data[1] + i - 2] ^= data[i];
  }
  const Mark parsed = parse_mark(mark, device_key, {&segment, 1});
  if (mark == good ? parsed.synced != 7 || parsed.newest != segment : parsed.newest != nullptr) std::abort();
  return 0;
}
