// Scans a pack file, as isr does after a crash or when the index is lost.
#include <fcntl.h>

#include <cstdlib>

#include "base/crypto.h"
#include "chunkstore/pack_file.h"

namespace {

using namespace isr;

void check_scan(const PackFile& pack, PackFile::Check check) {
  const std::uint64_t size = pack.size();
  std::uint64_t last_end = 0;
  const std::uint64_t end = pack.scan(0, check, [&](const Cid& cid, const PackPlace& place) {
    if (place.offset < last_end) std::abort();  // records do not overlap
    last_end = place.offset + record_size(place);
    const auto object = pack.read(cid, place);
    if (last_end > size || !object || !pack.holds(cid, place)) std::abort();
    if (check == PackFile::Check::kHashes && cid_of(*object) != cid) std::abort();
  });
  if (end > size || end < last_end) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TempDirectory temp("isr-pack-fuzz");
  static const fs::path file = temp.path() / "0000000000000001.pack";
  {
    const auto fd = open_file(file, O_RDWR | O_CREAT | O_TRUNC);
    write_all_at(fd.get(), {data, size}, 0, file);
  }
  const auto pack = PackFile::open(temp.path(), 1);
  check_scan(*pack, PackFile::Check::kHeaders);
  check_scan(*pack, PackFile::Check::kHashes);
  return 0;
}
